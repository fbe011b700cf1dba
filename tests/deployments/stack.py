"""The services of docker-compose.yml as processes of this machine: the same commands and settings, other addresses.

PostgreSQL is Debian's (or SQLite where it is not installed), the S3 server is that of the tests. Everything ends with the block.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from conftest import free_port
from s3_servers import s3_server

ROOT = Path(__file__).parents[2]
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SECRETS = {"PREFECT_AUTH": "admin:a-secret", "DATABASE_PASSWORD": "another", "STORE_KEY": "key", "STORE_SECRET": "a-third"}


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def environment_of(service: str, places: dict[str, str]) -> dict[str, str]:
    """A service's environment with the secrets filled in and its hosts replaced by addresses of this machine."""

    def filled(text: str) -> str:
        for there, here in places.items():
            text = text.replace(there, here)
        return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS.get(found[1], ""), text)

    return {name: filled(str(value)) for name, value in compose()["services"][service]["environment"].items()}


@dataclass
class Service:
    """A process that can be taken away and brought back."""

    run: Callable[[], subprocess.Popen[bytes]]
    ready: Callable[[], Any]
    name: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self.run()
        wait_for(self.ready, 600, self.name)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            end(self.process, number)
        self.process = None


@dataclass
class Stack:
    """A running system. `environment` is a worker's, and fits a client too."""

    api: str
    folder: Path
    environment: dict[str, str]
    server: Service
    database: Service | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def set_up(self, scale: str = "all") -> None:
        """What the service `setup` of the compose file does; fewer scales are faster."""
        for command in (["-m", "deployments.bucket"], ["-m", "deployments.cli", "deploy", "--scale", scale, "--json"]):
            ran = subprocess.run(
                [sys.executable, *command],
                env={**_plain(), **self.environment},
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert ran.returncode == 0, ran.stderr[-3000:]

    def start_worker(self, pool: str, **settings: str) -> subprocess.Popen[bytes]:
        command = ["-m", "deployments.cli", "worker", pool]
        self.workers[pool] = spawn(command, self.folder / f"worker-{pool}.log", self.environment | settings)
        return self.workers[pool]

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log"))


def spawn(arguments: list[str], log: Path, environment: dict[str, str], before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """A Python of this environment in a session of its own; `before` is a command that it is started by."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*before, sys.executable, *arguments],
            env={**_plain(), **environment},
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _plain() -> dict[str, str]:
    """This process's environment without any setting of Prefect or ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DATACOMP_", "AWS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, seconds: float = 20) -> None:
    for one in (number, signal.SIGKILL):
        try:
            os.killpg(process.pid, one)
            process.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=3).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def postgres(folder: Path) -> Generator[str]:
    """The address `host:port` of a PostgreSQL with the database and user of the compose file; its log is in `folder`."""
    with postgres_service(folder) as (address, _):
        yield address


@contextmanager
def postgres_service(folder: Path) -> Generator[tuple[str, Service]]:
    """The same with the service, which can be ended with SIGINT and started again.

    Its data lie in a folder of their own: it refuses to run as root, and pytest's folders are for their owner alone.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as home:
        yield from _postgres(Path(home), folder)


def _postgres(home: Path, folder: Path) -> Generator[tuple[str, Service]]:
    data, port, bin_ = home / "data", free_port(), POSTGRES[-1]
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    password = home / "password"
    password.write_text(SECRETS["DATABASE_PASSWORD"])
    data.mkdir()
    if as_user:
        for path in (home, data, password):
            shutil.chown(path, "postgres", "postgres")
    make = [str(bin_ / "initdb"), "-D", str(data), "-U", "prefect", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
    subprocess.run([*as_user, *make], check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = ["-D", str(data), "-p", str(port), "-k", str(data), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]

    def run() -> subprocess.Popen[bytes]:
        with (folder / "postgres.log").open("ab") as log:
            command = [*as_user, str(bin_ / "postgres"), *options]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)

    own = {**os.environ, "PGPASSWORD": SECRETS["DATABASE_PASSWORD"]}

    def created() -> bool:
        create = [str(bin_ / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect"]
        ran = subprocess.run(create, env=own, capture_output=True, text=True)
        return ran.returncode == 0 or "already exists" in ran.stderr

    server = Service(run, created, "PostgreSQL")
    try:
        server.start()
        yield f"127.0.0.1:{port}", server
    finally:
        server.end(signal.SIGINT)


@contextmanager
def prefect(folder: Path, environment: dict[str, str], port: int) -> Generator[Service]:
    command = ["-m", "deployments.prefect_server", "--host", "127.0.0.1", "--port", str(port)]
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_UI_STATIC_DIRECTORY": str(folder / "prefect" / "ui")}
    server = Service(
        lambda: spawn(command, folder / "prefect.log", environment | own),
        lambda: answers(f"http://127.0.0.1:{port}/api/health"),
        "the Prefect server",
    )
    try:
        server.start()
        yield server
    finally:
        server.end()


@contextmanager
def started(folder: Path, scale: str = "all") -> Generator[Stack]:
    """Everything but the workers, with all deployments applied, as the service `setup` does it."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        keys = (SECRETS["STORE_KEY"], SECRETS["STORE_SECRET"])
        store, port = stack.enter_context(s3_server((keys,)))["AWS_ENDPOINT_URL"], free_port()
        api = f"http://127.0.0.1:{port}/api"
        places = {"http://prefect:4200/api": api, "http://store:8333": store, "/var/lib/datacomp": str(folder / "work")}
        server, database = environment_of("prefect", places), None
        if POSTGRES:
            address, database = stack.enter_context(postgres_service(folder))
            server = environment_of("prefect", places | {"database:5432": address})
        else:
            del server["PREFECT_API_DATABASE_CONNECTION_URL"]
        service = stack.enter_context(prefect(folder, server, port))
        worker = environment_of("setup", places) | {"DATACOMP_WORKERS": "2", "PREFECT_HOME": str(folder / "client")}
        made = Stack(api, folder, worker, service, database)
        made.set_up(scale)
        try:
            yield made
        finally:
            for process in made.workers.values():
                end(process)
