"""dockerd over a folder and in a network namespace of our own, so no image, no rule and no bridge of this machine is touched.

Everything that the tests of the stack keep is in one folder: DATACOMP_STACK, by default ~/.cache/datacomp-stack.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from own_network import DNS, network_of, own_network

STACK = Path(os.environ.get("DATACOMP_STACK", Path.home() / ".cache/datacomp-stack"))
HOST = f"unix://{STACK / 'docker.sock'}"
LOG, PID, CONTAINERD = STACK / "dockerd.log", STACK / "docker.pid", STACK / "run/containerd/containerd.pid"


def running() -> int | None:
    """The process of the daemon over our folder, if it runs."""
    pid = int(PID.read_text()) if PID.exists() else 0
    is_ours = pid and Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text() == "dockerd\n"
    return pid if is_ours else None


@contextmanager
def daemon() -> Generator[None]:
    """A daemon that ends with the block. One that runs already is used, in its network, and left running."""
    if pid := running():
        with network_of(pid):
            yield
        return
    with own_network():
        start()
        try:
            yield
        finally:
            end()


def start() -> None:
    """Start the daemon and wait for its answer; it begins what ran when it ended, as after a reboot."""
    words = ["dockerd", "--data-root", str(STACK / "docker"), "--exec-root", str(STACK / "run"), "--pidfile", str(PID)]
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            [*words, "--host", HOST, "--dns", DNS], stdout=log, stderr=log, cwd="/", start_new_session=True
        )
    until = time.monotonic() + 300
    while subprocess.run(["docker", "--host", HOST, "version"], capture_output=True).returncode:
        assert process.poll() is None, LOG.read_text(errors="replace")[-3000:]
        assert time.monotonic() < until, "the engine did not answer within five minutes"
        time.sleep(0.5)


def end() -> None:
    """Tell the daemon to end, which stops its containers, and wait until it is gone."""
    pid = running()
    assert pid is not None
    _send(pid, signal.SIGTERM)


def kill() -> None:
    """Kill the daemon and its containerd, as a power cut does.

    Their pid files go, as all of /run goes in a reboot: a killed process that this machine's init has not reaped looks alive.
    """
    pid = running()
    assert pid is not None
    for one in (pid, int(CONTAINERD.read_text())):
        _send(one, signal.SIGKILL)
    CONTAINERD.unlink()


def _send(pid: int, number: int) -> None:
    watched = os.pidfd_open(pid)
    os.kill(pid, number)
    gone, _, _ = select.select([watched], [], [], 300)
    os.close(watched)
    assert gone, "the engine did not end within five minutes"
    with suppress(ChildProcessError):  # another process started it
        os.waitpid(pid, 0)
    PID.unlink(missing_ok=True)
