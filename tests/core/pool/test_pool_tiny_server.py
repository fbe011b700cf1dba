"""The pool's server, over real HTTP, as the proxy that clients take it for."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from datacomp_core.errors import DatacompError, DataError
from datacomp_core.pool.tiny import serve
from datacomp_core.store import Folder

IMAGES = {f"/0/{number:02x}/{number}.{'jpg' if number % 2 else 'webp'}": bytes([number]) * (100 + number) for number in range(60)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    media = ["image/jpeg" if path.endswith("jpg") else "image/webp" for path in IMAGES]
    frame = pl.DataFrame({"path": list(IMAGES), "media_type": media, "image": list(IMAGES.values())})
    frame.write_parquet(tmp_path / "origin.parquet")
    return Folder(tmp_path)


def through(proxy: str) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))


def test_it_answers_for_the_host_that_does_not_exist(folder: Folder) -> None:
    with serve(folder) as proxy, ThreadPoolExecutor(16) as threads:
        opener = through(proxy)

        def get(path: str) -> tuple[str, bytes, str | None]:
            with opener.open(f"http://tiny.datacomp.invalid{path}", timeout=20) as answer:
                return path, answer.read(), answer.headers["Content-Type"]

        answers = list(threads.map(get, list(IMAGES) * 5))
    assert len(answers) == 300
    for path, body, media_type in answers:
        assert body == IMAGES[path]
        assert media_type == ("image/jpeg" if path.endswith("jpg") else "image/webp")


def test_dead_urls_and_other_hosts(folder: Folder) -> None:
    with serve(folder) as proxy:
        for url, status in (("http://tiny.datacomp.invalid/0/gone.jpg", 404), ("http://example.invalid/0/00/0.webp", 502)):
            with pytest.raises(urllib.error.HTTPError) as told:
                through(proxy).open(url, timeout=20)
            assert told.value.code == status
            told.value.close()


def test_it_is_gone_afterwards(folder: Folder) -> None:
    with serve(folder) as proxy:
        pass
    with pytest.raises(urllib.error.URLError):
        through(proxy).open("http://tiny.datacomp.invalid/0/00/0.webp", timeout=5)


def test_a_port_in_use_is_one_sentence(folder: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(DatacompError, match=rf"^Port {port} on 127\.0\.0\.1 .*give another one, or 0"),
            serve(folder, port=port),
        ):
            pass


def test_a_folder_without_a_pool(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"), serve(Folder(tmp_path)):
        pass
