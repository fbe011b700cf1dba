"""What the server's database must be, on a real PostgreSQL: a database that loses events is refused before anything is served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from stack import POSTGRES, ROOT, SECRETS, postgres

from deployments import database
from deployments.event_check import EventsLostError, require_events

needs_postgres = pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed (apt install postgresql)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a PostgreSQL with the databases `prefect` (UTF8) and `ascii` (SQL_ASCII)."""
    with postgres(tmp_path_factory.mktemp("postgres")) as address:
        host, _, port = address.partition(":")
        make = ["createdb", "-h", host, "-p", port, "-U", "prefect", "-E", "SQL_ASCII", "-l", "C", "-T", "template0", "ascii"]
        subprocess.run([str(POSTGRES[-1] / make[0]), *make[1:]], env=os.environ | {"PGPASSWORD": password()}, check=True)
        yield address


def password() -> str:
    return SECRETS["DATABASE_PASSWORD"]


def url(address: str, name: str = "prefect", secret: str | None = None) -> str:
    return f"postgresql+asyncpg://prefect:{secret or password()}@{address}/{name}"


@needs_postgres
def test_utf8_is_accepted(server: str) -> None:
    database.require(url(server), patience=30)


@needs_postgres
def test_sql_ascii_is_refused(server: str) -> None:
    with pytest.raises(database.DatabaseError, match=r"/ascii has the encoding SQL_ASCII.*--encoding=UTF8"):
        database.require(url(server, "ascii"), patience=30)


@needs_postgres
@pytest.mark.slow
def test_sql_ascii_is_refused_by_the_server_at_its_start(server: str, tmp_path: Path) -> None:
    own = {"PREFECT_API_DATABASE_CONNECTION_URL": url(server, "ascii"), "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deployments.prefect_server", "--port", "4299"]
    ended = subprocess.run(command, env=os.environ | own, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert f"{server}/ascii has the encoding SQL_ASCII, in which the Prefect server loses events" in line
    assert "createdb --encoding=UTF8 --template=template0 ascii" in line
    assert "Traceback" not in ended.stderr
    assert password() not in ended.stdout + ended.stderr


@needs_postgres
@pytest.mark.parametrize(
    ("name", "secret", "said"), [("prefect", "wrong", "password authentication failed"), ("other", None, "does not exist")]
)
def test_a_database_that_refuses_is_told_at_once(server: str, name: str, secret: str | None, said: str) -> None:
    with pytest.raises(database.DatabaseError, match=said) as refused:
        database.require(url(server, name, secret), patience=600)
    assert "PREFECT_API_DATABASE_CONNECTION_URL" in str(refused.value)


def test_a_database_that_is_away_is_waited_for_and_told() -> None:
    with pytest.raises(database.DatabaseError, match=r"127\.0\.0\.1:9/prefect did not answer within 1 s"):
        database.require("postgresql+asyncpg://prefect:x@127.0.0.1:9/prefect", patience=1)


def test_sqlite_needs_nothing() -> None:
    database.require("sqlite+aiosqlite:////nowhere/prefect.db", patience=0)


@pytest.mark.usefixtures("prefect_server")
def test_an_event_comes_back() -> None:
    with get_client(sync_client=True) as client:
        require_events(client)


@pytest.mark.usefixtures("prefect_server")
def test_an_event_that_does_not_come_back_is_told_in_one_sentence() -> None:
    with get_client(sync_client=True) as client, pytest.raises(EventsLostError, match="encoding UTF8") as told:
        require_events(client, patience=-1)  # before the server has written anything down
    assert str(client.api_url) in str(told.value)
