"""The server of our pages: what is in the store is served, nothing else, and only to who may read the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from datacomp_core.store import Folder
from deployments.served import make_app

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
