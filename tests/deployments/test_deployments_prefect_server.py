"""The server of our pages: what is in the store is served, nothing else, and only to who may read the API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.prefect_server import make_app

BOARD = "<!doctype html><title>board</title>"


@pytest.fixture
def pages(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "store" / "_pages"))
    folder.write("tiny.html", BOARD.encode())
    folder.write("pictures/contact.png", b"\x89PNG")
    (tmp_path / "store" / "secret.html").write_text("secret")
    return folder


def client(pages: Folder) -> TestClient:
    return TestClient(make_app(pages), base_url="http://127.0.0.1", follow_redirects=False)


def test_pages_and_pictures_come_from_the_store_with_a_policy(pages: Folder) -> None:
    page = client(pages).get("/report/tiny.html")
    assert (page.status_code, page.text) == (200, BOARD)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    picture = client(pages).get("/report/pictures/contact.png")
    assert (picture.content, picture.headers["content-type"]) == (b"\x89PNG", "image/png")


@pytest.mark.parametrize(
    "path",
    [
        "other.html",
        "../secret.html",
        "%2e%2e/secret.html",
        "pictures/../../secret.html",
        ".hidden.html",
        "tiny.json",
        "",
        "a//tiny.html",
    ],
)
def test_nothing_else_is_served(pages: Folder, path: str) -> None:
    answer = client(pages).get(f"/report/{path}")
    assert answer.status_code in (404, 307)
    assert "secret" not in answer.text.replace("secret.html", "")


def test_the_page_may_ask_this_server_only(pages: Folder) -> None:
    policy = client(pages).get("/api/health").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy


@pytest.fixture
def guarded() -> Iterator[None]:
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "admin:right"}):
        yield


@pytest.mark.usefixtures("guarded")
def test_a_server_with_a_password_asks_for_it(pages: Folder) -> None:
    asked = client(pages).get("/report/tiny.html")
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic")
    assert client(pages).get("/report/tiny.html", auth=("admin", "wrong")).status_code == 401
    assert client(pages).get("/report/tiny.html", auth=("admin", "right")).text == BOARD


def test_explore_has_a_door_here(pages: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    asked = client(pages)
    page = asked.get("/explore/pools/tiny/mine--0123456789ab/")
    assert page.status_code == 200
    assert "explore.js" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert asked.get("/explore/pools/tiny/mine--0123456789ab/explore.js").headers["content-type"].startswith("text/javascript")
    about = "/explore/pools/tiny/mine--0123456789ab/api/about"
    end = time.monotonic() + 60
    while (answer := asked.get(about)).status_code == 202 and time.monotonic() < end:
        time.sleep(0.1)
    assert answer.status_code == 400
    assert "Nothing is built at 'pools/tiny/mine--0123456789ab'" in answer.json()["error"]
    assert "cannot be explored" in asked.get("/explore/checkpoints/tiny/x/api/about").json()["error"]
    settings.cache_clear()


def test_explore_asks_for_the_password_of_the_api(pages: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, temporary_settings

    with temporary_settings({PREFECT_SERVER_API_AUTH_STRING: "me:secret"}):
        asked = client(pages)
        for path in ("", "explore.js", "api/about"):
            assert asked.get(f"/explore/pools/tiny/mine--0123456789ab/{path}").status_code == 401
        assert asked.get("/explore/pools/tiny/mine--0123456789ab/", auth=("me", "secret")).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:5432"])
def test_clients_are_asked_to_retry_while_the_database_cannot_be_reached(
    pages: Folder, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"postgresql+asyncpg://prefect:secret@{address}/prefect"}):
        answer = client(pages).post("/api/flow_runs/filter", json={})
    assert (answer.status_code, answer.headers["Prefect-Maintenance"], answer.headers["Retry-After"]) == (503, "true", "5")
