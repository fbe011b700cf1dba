"""Two machines that share a network and nothing else, on one: namespaces for mounts, processes, names, memory and network.

Each has its own /tmp, /dev/shm, /run and home; everything else is visible read-only on both sides, which stands for "the same
image". Between them lies a switch, a network namespace of its own, where a real S3 server and a web server of pictures listen.
It needs root, `unshare`, `nsenter` and `ip`; what was started ends with the process that started it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datacomp_core.parallel import PR_SET_PDEATHSIG

TREE = Path(__file__).parents[2]
NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.1"
S3_PORT, WEB_PORT, HUB_PORT = 9000, 8000, 8100
BUCKET = "cluster"
SHARED = "/mnt/shared"
PRIVATE = ("/tmp", "/var/tmp", "/run", "/root", "/home", "/dev/shm")
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://{SWITCH}:{S3_PORT}",
    "HF_ENDPOINT": f"http://{SWITCH}:{HUB_PORT}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 is its own choice, with which nothing goes on beside other work
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
}


def why_not() -> str:
    """Why machines cannot be emulated here; empty if they can."""
    tools = [name for name in ("unshare", "nsenter", "ip", "mount") if shutil.which(name, path=_path()) is None]
    if os.getuid() != 0 or tools:
        return f"emulating machines needs root and {', '.join(tools) or 'namespaces'}"
    script = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs tmpfs /tmp"
    told = subprocess.run(["unshare", *_FLAGS, "sh", "-c", script], capture_output=True, text=True, env=_environment())
    return "" if told.returncode == 0 else f"namespaces are not allowed here: {told.stderr.strip()}"


_FLAGS = ("--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--mount-proc", "--kill-child")


@dataclass(frozen=True)
class Machine:
    """A machine of the emulated network, by the process that holds its namespaces."""

    name: str
    address: str
    holder: int

    def start(self, command: Sequence[str], extra: Mapping[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
        """Run a command there, in its own home. It ends with us."""
        enter = ["nsenter", f"--target={self.holder}", *(f"--{kind}" for kind in ("mount", "pid", "uts", "ipc", "net"))]
        environment = {**_environment(), **ENVIRONMENT, "HOME": "/root", "TMPDIR": "/tmp", **(extra or {})}
        return subprocess.Popen(  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
            [*enter, "--wd=/root", "--", *command],
            env=environment,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_us,  # noqa: PLW1509 - one system call
            **options,
        )  # pyright: ignore[reportArgumentType]

    def run(
        self, command: Sequence[str], extra: Mapping[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(command, extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started has its output too
            out, err = process.communicate()
            raise AssertionError(f"{command} ran past {timeout} s on {self.name}:\n{out}\n{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def kill_all(self, text: str, at_most: int = 1000) -> int:
        """SIGKILL to the processes there with `text` in their command lines, the last begun first; how many that were."""
        found = self.run(["pgrep", "-f", "-x", f".*{text}.*"]).stdout.split()[::-1][:at_most]
        for pid in found:
            self.run(["kill", "-9", pid])
        return len(found)


def _die_with_us() -> None:
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    """Ours, without settings, addresses and proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATACOMP_", "AWS_", "RAY_", "DASK_"))}
    return {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")} | {"PATH": _path()}


def _mounts(shared: Path | None, names: Sequence[str]) -> str:
    """The script that makes a new mount namespace private. What we run from is kept; `shared` is at `SHARED`."""
    needed = {str(TREE), sys.prefix, sys.base_prefix, *(path for path in sys.path if path.endswith("site-packages"))}
    hidden = sorted(path for path in needed if path.startswith(tuple(f"{place}/" for place in PRIVATE)))
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs /mnt"]
    if shared is not None:
        lines += [f"mkdir {SHARED}", f"mount --bind {shared} {SHARED}"]
    for number, path in enumerate(hidden):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {path} /mnt/{number}"]
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {place}" for place in PRIVATE if Path(place).is_dir()]
    for number, path in enumerate(hidden):
        lines += [f"mkdir -p {path}", f"mount --bind /mnt/{number} {path}", f"mount -o remount,bind,ro {path}"]
    hosts = [f"{_address(number)} {name}" for number, name in enumerate(names)]
    lines += [f"echo '{line}' >> /run/hosts" for line in ("127.0.0.1 localhost", *hosts)] + ["mount --bind /run/hosts /etc/hosts"]
    lines += ["mount -o remount,bind,ro /", "ip link set lo up"]
    return "\n".join(lines)


def _address(number: int) -> str:
    return f"{NETWORK}.{number + 2}"


def _hold(name: str, script: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process that holds new namespaces, and its id in ours, once `script` has run in them."""
    lines = f"{script}\nhostname {name}\necho ready\nexec sleep infinity"
    holder = subprocess.Popen(
        ["unshare", *_FLAGS, "sh", "-c", lines],
        stdout=subprocess.PIPE,
        env=_environment(),
        preexec_fn=_die_with_us,  # noqa: PLW1509 - one system call
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n", f"the namespaces of {name} could not be made"
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return holder, int(children[0])


@contextmanager
def machines(*names: str, shared: Path | None = None) -> Generator[tuple[Machine, ...]]:
    """Machines of these names, and a switch with a bucket `BUCKET`, the pictures of `pictures.py` and the hub of `models_hub.py`.

    With `shared` they share this folder too, at `SHARED`.
    """
    holders: list[subprocess.Popen[bytes]] = []
    servers: list[subprocess.Popen[str]] = []
    try:
        bridge = f"ip link set lo up; ip link add br0 type bridge; ip addr add {SWITCH}/24 dev br0; ip link set br0 up"
        holder, switch_pid = _hold("switch", f"set -e\n{bridge}")
        holders.append(holder)
        switch = Machine("switch", SWITCH, switch_pid)
        found: list[Machine] = []
        for number, name in enumerate(names):
            holder, pid = _hold(name, _mounts(shared, names))
            holders.append(holder)
            address = _address(number)
            _plug(switch_pid, pid, number, address)
            found.append(Machine(name, address, pid))
        servers.append(
            switch.start(
                [sys.executable, "-m", "ministack"],
                {"GATEWAY_PORT": str(S3_PORT), "BIND_HOST": SWITCH, "SERVICES": "s3", "LOG_LEVEL": "ERROR"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        for script, port in (("pictures.py", WEB_PORT), ("models_hub.py", HUB_PORT)):
            own = {"PYTHONPATH": str(TREE)}
            servers.append(switch.start([sys.executable, str(Path(__file__).with_name(script)), SWITCH, str(port)], own))
        _make_bucket(found[0])
        yield tuple(found)
    finally:
        for server in servers:
            server.kill()
            server.wait()
        for holder in holders:
            holder.kill()
            holder.wait()


def _plug(switch: int, machine: int, number: int, address: str) -> None:
    ours, theirs = f"v{os.getpid() % 100000}n{number}", f"w{os.getpid() % 100000}n{number}"
    steps = (
        f"ip link add {ours} type veth peer name {theirs}",
        f"ip link set {theirs} netns {machine}",
        f"ip link set {ours} netns {switch}",
        f"nsenter --target={switch} --net ip link set {ours} master br0 up",
        f"nsenter --target={machine} --net ip link set {theirs} name eth0",
        f"nsenter --target={machine} --net ip addr add {address}/24 dev eth0",
        f"nsenter --target={machine} --net ip link set eth0 up",
    )
    for step in steps:
        subprocess.run(step.split(), check=True, env=_environment())


def _make_bucket(machine: Machine) -> None:
    script = f"import s3fs; s3fs.S3FileSystem().mkdir({BUCKET!r})"
    deadline = time.monotonic() + 120
    while (told := machine.run([sys.executable, "-c", script], timeout=60)).returncode:
        assert time.monotonic() < deadline, f"the S3 server did not answer: {told.stderr}"
        time.sleep(0.5)
