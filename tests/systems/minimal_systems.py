"""Tries `make demo` and `make test` where a newcomer would: in fresh Debian systems that have only what the README names.

    sudo python3 tests/systems/minimal_systems.py bookworm trixie forky      # by debootstrap; root is needed
    python3 tests/systems/minimal_systems.py /path/to/python3.12             # a clean clone and another interpreter: faster

The commit that is checked out is cloned; changes that are not committed are left out. A system gets the host's way to the package
registries (its mirror, CA bundle, pip configuration) and nothing else from the host. Each command runs as an ordinary user, in
namespaces of its own, so no process and no mount outlives it. For each system one row of the README's table is printed. The exit
status is 1 if a command failed or a package was installed that constraints.txt does not pin.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
README_PACKAGES = "git,make,python3,python3-venv"
"""What the README tells people to install."""
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13", "forky": "Debian testing"}
DEFAULT_MIRROR = "http://deb.debian.org/debian"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_FILES = (Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf"))
KEPT_VARIABLES = re.compile(
    r"(PIP_(?!FIND_LINKS)\w+|\w*_CA_BUNDLE|\w*SSL\w*CERT\w*|SSL_CERT_DIR|\w+_proxy|\w+_PROXY|NODE_EXTRA_CA_CERTS)\Z"
)
USER = "newcomer"
HOME = Path("/home") / USER
CLONE = "datacomp"
NOT_PINNED = {"pip", "datacomp"}


class Result(NamedTuple):
    """What happened in one system. Times in seconds; `passed` is pytest's count."""

    system: str
    python: str
    setup_seconds: float
    demo_seconds: float
    test_seconds: float
    passed: str
    problems: list[str]

    def row(self) -> str:
        times = [f"{round(seconds):,} s" if seconds else "" for seconds in (self.setup_seconds, self.demo_seconds)]
        tests = f"{self.passed} in {round(self.test_seconds):,} s" if self.passed else ""
        verdict = "; ".join(self.problems) or "works"
        return f"| {' | '.join([self.system, self.python, *times, tests, verdict, f'{datetime.now(UTC):%Y-%m-%d}'])} |"


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", help=f"{', '.join(SUITES)}, or the path of a Python interpreter")
    parser.add_argument("--commands", nargs="+", default=["demo", "test"], choices=["demo", "test"], help="what to run")
    parser.add_argument("--folder", type=Path, help="where systems, clones and logs are made and kept (default: a removed one)")
    parser.add_argument("--pip-cache", type=Path, help="a folder for pip's downloads, shared by the systems")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="systems-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        results = [attempt(system, folder, chosen.commands, chosen.pip_cache) for system in chosen.systems]
    finally:
        if not chosen.folder:
            shutil.rmtree(folder)
    print("| system | Python | set-up | demo | tests | result | date |\n|---|---|---|---|---|---|---|")
    print("\n".join(result.row() for result in results))
    return 1 if any(result.problems for result in results) else 0


def attempt(system: str, folder: Path, commands: list[str], pip_cache: Path | None) -> Result:
    """Both commands in one system."""
    place: Place = Debian(system, folder, pip_cache) if system in SUITES else Interpreter(system, folder, pip_cache)
    problems: list[str] = []
    times = dict.fromkeys(("setup", "demo", "test"), 0.0)
    passed = ""
    for command in ["setup", *commands]:
        times[command], status, printed = place.run(f"make {command}{place.arguments}", folder / f"{place.name}-{command}.log")
        if command == "test":
            [*_, passed] = ["", *re.findall(r"^=+ (.*passed.*) in [\d.]+s", printed, re.MULTILINE)]
        if status:
            problems.append(f"make {command} ended with status {status}")
            break
        if command == "setup":
            _, _, frozen = place.run(
                ".venv/bin/python -m pip freeze --all --exclude-editable", folder / f"{place.name}-freeze.log"
            )
            problems += [f"{line} is not pinned" for line in floating(frozen, (ROOT / "constraints.txt").read_text())]
    python = place.run(".venv/bin/python -c 'import platform; print(platform.python_version())'", folder / "version.log")[2]
    return Result(place.title, python.strip(), times["setup"], times["demo"], times["test"], passed, problems)


def floating(frozen: str, constraints: str) -> list[str]:
    """The lines of `pip freeze` that constraints.txt does not have."""
    pinned = {_canonical(line.partition(";")[0]) for line in constraints.splitlines()}
    lines = [line for line in frozen.splitlines() if "==" in line]
    return [line for line in lines if _canonical(line) not in pinned and _canonical(line).partition("==")[0] not in NOT_PINNED]


def _canonical(line: str) -> str:
    name, _, version = line.strip().partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


class Place:
    """Where the commands run: `title` for people, `arguments` for make."""

    name: str
    title: str
    arguments = ""

    def run(self, line: str, log: Path) -> tuple[float, int, str]:
        """Seconds, exit status and output of a shell line in the clone; the log file has the output too."""
        print(f"{self.name}: {line}", flush=True)
        begun = time.monotonic()
        with log.open("wb") as file:
            done = subprocess.run(self.command(line), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd="/")
        printed = log.read_text(errors="replace")
        if done.returncode:
            print(f"{self.name}: {line} ended with status {done.returncode}:\n{printed[-3000:]}", file=sys.stderr, flush=True)
        return time.monotonic() - begun, done.returncode, printed

    def command(self, line: str) -> list[str]:
        raise NotImplementedError


class Interpreter(Place):
    """A clean clone on this machine, set up with another interpreter."""

    def __init__(self, python: str, folder: Path, pip_cache: Path | None) -> None:
        self.name = Path(python).name
        self.title = f"{self.name} on this machine"
        self.arguments = f" PYTHON={shlex.quote(python)}"
        self._clone, self._cache = folder / self.name / CLONE, pip_cache
        clone(self._clone)

    def command(self, line: str) -> list[str]:
        own = {"HOME": str(self._clone.parent), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return ["env", "-i", *variables({**own, **pip_variables(self._cache)}), "bash", "-c", f"cd {self._clone} && {line}"]


class Debian(Place):
    """A minimal Debian of its own, made by debootstrap."""

    def __init__(self, suite: str, folder: Path, pip_cache: Path | None) -> None:
        self.name, self.title = suite, f"{SUITES[suite]} ({suite})"
        self._root, self._cache = folder / suite, pip_cache
        if not (self._root / "etc" / "made").exists():
            make_system(suite, self._root)
        home = self._root / HOME.relative_to("/")
        clone(home / CLONE)
        self._chroot("chown", "-R", f"{USER}:{USER}", str(HOME))

    def _chroot(self, *command: str) -> None:
        subprocess.run(["chroot", str(self._root), *command], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def command(self, line: str) -> list[str]:
        root, inside = self._root, f"cd {HOME / CLONE} && {line}"
        mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", f"mount -t tmpfs tmpfs {root}/dev/shm"]
        cache = None
        if self._cache:
            self._cache.mkdir(parents=True, exist_ok=True)
            cache = Path("/var/cache/pip")
            (root / cache.relative_to("/")).mkdir(parents=True, exist_ok=True)
            mounts += [f"mount --bind {self._cache.resolve()} {root}{cache}", f"chroot {root} chown -R {USER} {cache}"]
        own = {"HOME": str(HOME), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        as_user = ["chroot", f"--userspec={USER}:{USER}", str(root), "env", "-i", *variables({**own, **pip_variables(cache)})]
        script = " && ".join([*mounts, f"exec {shlex.join([*as_user, 'bash', '-c', inside])}"])
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script]


def make_system(suite: str, root: Path) -> None:
    """A minimal system with what the README names, the host's access to the registries and an ordinary user."""
    script = [] if (Path("/usr/share/debootstrap/scripts") / suite).exists() else ["/usr/share/debootstrap/scripts/sid"]
    shutil.rmtree(root, ignore_errors=True)
    include = f"--include={README_PACKAGES}"
    subprocess.run(["debootstrap", "--variant=minbase", include, suite, str(root), mirror(), *script], check=True)
    for source in (Path("/etc/resolv.conf"), Path("/etc/hosts"), BUNDLE, *PIP_FILES):
        if source.is_file():
            target = root / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    subprocess.run(["chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    (root / "etc" / "made").touch()


def mirror() -> str:
    """The Debian mirror that the host's apt uses."""
    sources = [*Path("/etc/apt/sources.list.d").glob("*"), Path("/etc/apt/sources.list")]
    text = "\n".join(path.read_text() for path in sources if path.is_file() and path.suffix in {".list", ".sources"})
    found = re.findall(r"^(?:URIs:|deb)\s+(?:\[.*?\]\s+)?(\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    return found[0] if found else DEFAULT_MIRROR


def clone(target: Path) -> None:
    """The commit that is checked out here, as a clone without anything else."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", f"file://{ROOT}", str(target)], check=True)


def pip_variables(cache: Path | None) -> dict[str, str]:
    """What of this environment a package installer needs to reach its registry, and pip's own configuration of the user."""
    kept = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.match(name)}
    return {**kept, **({"PIP_CACHE_DIR": str(cache)} if cache else {})}


def variables(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(environment.items())]


if __name__ == "__main__":
    sys.exit(main())
