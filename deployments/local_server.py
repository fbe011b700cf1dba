"""Starts a local Prefect server for a run if no server is configured: on loopback, with a database in our home folder. If
`PREFECT_API_URL` is set, nothing is started and that server is used. Environment variables are set before prefect is imported,
because prefect reads them once; so this module does not import it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from datacomp_core.errors import DatacompError
from datacomp_core.parallel import PR_SET_PDEATHSIG
from datacomp_core.settings import settings
from datacomp_core.store.store import make_private

UI_PORT = 4200
PORTS_TRIED = 5
IN_USE = "address already in use"
START_SECONDS = 300  # a cold start on a busy machine
MARK, MARK_HEADER = "_DATACOMP_SERVER_MARK", "X-Datacomp-Server"  # distinguishes our server from another on its port
RECORD_SECONDS = 1.5  # slightly more than the recorder's flush interval

PRIVATE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
}
"""No telemetry unless requested."""

BATCHES = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_MAX_FLUSH_RETRIES": "300",
}
"""By default task runs are recorded one by one; this is slow and loses them at a stop. Events that cannot be written wait five
minutes for the database; by default they are dropped after half a minute."""

PAGE = {"PREFECT_SERVER_UI_API_URL": "/api"}
"""The page asks the server that it was loaded from, through any port, tunnel or proxy; by default it asks port 4200."""

CLIENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "datacomp_core",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
"""The core's log goes to the run's page; the terminal shows steps, not log lines. Runs send heartbeats: a server that stays up
(`datacomp ui`) detects a killed run by missing heartbeats."""


class PortTakenError(DatacompError):
    """Another server took our port first."""


def refuse_backport() -> None:
    """Raise DatacompError if the package that breaks every Prefect server is installed."""
    try:
        importlib.metadata.version("dataclasses")
    except importlib.metadata.PackageNotFoundError:
        return
    raise DatacompError(
        "The package 'dataclasses' (a backport that img2dataset asks for) shadows the standard library and stops Prefect's "
        f"server at its start: remove it with {sys.executable} -m pip uninstall -y dataclasses"
    )


def server_environment(home: Path) -> dict[str, str]:
    """Return the settings of a local server; the user's own settings are kept."""
    own = {"PREFECT_HOME": str(home), "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"), **PRIVATE, **BATCHES, **PAGE}
    return {**own, **{name: value for name, value in os.environ.items() if name in own}}


@contextmanager
def prefect_api() -> Generator[str]:
    """Return the API for flows in this block: the user's, or our own server, which ends with the block."""
    prepare_environment()
    if "PREFECT_API_URL" in os.environ:
        yield os.environ["PREFECT_API_URL"]
        return
    refuse_backport()
    with ExitStack() as stack:
        api = _started(stack)
        stack.enter_context(_known(api))
        try:
            yield api
        finally:
            _hand_in()


def _started(stack: ExitStack) -> str:
    """Start a server on the usual port, or on another one if that is or becomes occupied."""
    for left in reversed(range(PORTS_TRIED)):
        port = UI_PORT if left == PORTS_TRIED - 1 and _is_free(UI_PORT) else _free_port()
        try:
            return stack.enter_context(_served(port))
        except PortTakenError:
            if not left:
                raise
    raise AssertionError


def prepare_environment() -> None:
    """Set what prefect reads at its first import, unless the user has set it."""
    own = {**PRIVATE, **CLIENT}
    if "PREFECT_API_URL" not in os.environ:
        own["PREFECT_HOME"] = str(_prefect_home())
    for name, value in own.items():
        os.environ.setdefault(name, value)


def _prefect_home() -> Path:
    home = (settings().home / "prefect").resolve()
    make_private(settings().home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    database = home / "prefect.db"
    if not database.exists():
        database.touch(mode=0o600, exist_ok=True)  # SQLite gives its side files the permissions of the database
    database.chmod(0o600)
    return home


@contextmanager
def _known(api: str) -> Generator[None]:
    """Make the API known to this process and its children, whether or not prefect is already imported."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ["PREFECT_API_URL"] = api
    try:
        with temporary_settings({PREFECT_API_URL: api}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]


@contextmanager
def _served(port: int) -> Generator[str]:
    home, mark = _prefect_home(), secrets.token_hex(8)
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            server_command(port),
            env={**os.environ, **server_environment(home), MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread of ours runs yet, and there is no other way
        )
    try:
        _wait_until_healthy(server, port, log, mark)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        _end(server)


def _hand_in() -> None:
    """Send what prefect still buffers in this process (logs, events), and give the server time to record it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)
    time.sleep(RECORD_SECONDS)


def server_command(port: int) -> list[str]:
    """The foreground command of a local server with its UI. It imports nothing from the working folder."""
    return [sys.executable, "-P", "-m", "deployments.prefect_server", "--host", "127.0.0.1", "--port", str(port)]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path, mark: str) -> None:
    """DatacompError if the server ends, does not answer in time, or if another server answers on its port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = log.read_text(errors="replace").strip()
            if IN_USE in said.lower() or _answers(port):  # what it logs depends on the logging level that the user has set
                raise PortTakenError(_taken(port))
            last = said.splitlines()[-1:] or ["no output"]
            raise DatacompError(f"The local Prefect server stopped at its start ({last[0].strip()}): read {log}.")
        try:
            with opener.open(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
                if answer.headers.get(MARK_HEADER) != mark:
                    raise PortTakenError(_taken(port))
            return
        except OSError:
            time.sleep(0.2)
    raise DatacompError(f"The local Prefect server did not answer within {START_SECONDS} s: read {log}.")


def _answers(port: int) -> bool:
    """Return whether a process listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _taken(port: int) -> str:
    return f"Another server took port {port} at the same time: run the command again."


def _end(server: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, then SIGKILL to its whole session if needed."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(server.pid, number)
            server.wait(timeout=patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def require_free(port: int) -> None:
    """DatacompError if something else listens there."""
    if not _is_free(port):
        raise DatacompError(
            f"Port {port} on 127.0.0.1 is in use: stop the process that uses it, or choose another port with --port."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
