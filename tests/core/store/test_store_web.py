"""Files of web servers that state much or little about themselves, against what they serve."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datacomp_core.errors import MissingFileError, StoreError
from datacomp_core.store import Folder

DATA = bytes(range(256)) * 40_000  # 10 MB: more than is asked for at once of a bucket


@dataclass
class Web:
    """A server, what it states, and how often it ends a body early."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    states: set[str] = field(default_factory=set[str])
    cuts: int = 0
    asked: list[str] = field(default_factory=list[str])
    url: str = ""


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web({"/a.npy": DATA})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            found.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            data = found.files.get(self.path.partition("?")[0])
            if not with_body and "head" not in found.states:
                self.send_error(403)
                return
            if data is None:
                self.send_error(404)
                return
            start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
            is_part = "ranges" in found.states and "Range" in self.headers
            body = data[int(start) :] if is_part else data
            self.send_response(206 if is_part else 200)
            if "etag" in found.states:
                self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            if "time" in found.states:
                self.send_header("Last-Modified", "Mon, 30 Nov 2026 08:00:00 GMT")
            if "size" in found.states:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                is_cut, found.cuts = found.cuts > 0, found.cuts - 1
                self.wfile.write(body[: len(body) // 2] if is_cut else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "states",
    [set(), {"head"}, {"size"}, {"head", "size"}, {"head", "size", "ranges"}, {"head", "size", "ranges", "etag", "time"}],
)
def test_a_file_comes_whole_whatever_the_server_states(states: set[str], web: Web, tmp_path: Path) -> None:
    web.states = states
    folder = Folder(web.url)
    assert folder.exists("a.npy")
    assert not folder.exists("b.npy")
    folder.fetch("a.npy", tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == DATA
    with pytest.raises(MissingFileError, match="is not there"):
        folder.fetch("b.npy", tmp_path / "b.npy")


@pytest.mark.parametrize("states", [{"size"}, {"size", "ranges"}, {"size", "ranges", "etag"}])
def test_a_cut_body_is_fetched_again(states: set[str], web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.store.failures.PAUSES", (0, 0))
    web.states, web.cuts = states, 2
    Folder(web.url).fetch("a.npy", tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == DATA
    assert any("bytes=" in one for one in web.asked) == ("etag" in states), "without an etag the rest may be another file's"
    web.cuts = 9
    with pytest.raises(StoreError, match="Cannot use"):
        Folder(web.url).fetch("a.npy", tmp_path / "a.npy")


def test_the_mark_tells_a_change_or_is_empty(web: Web) -> None:
    folder, marks = Folder(web.url), dict[str, str]()
    for stated in ("etag", "time", "size"):
        web.states = {"head", stated}
        marks[stated] = folder.mark("a.npy")
    assert hashlib.md5(DATA).hexdigest() in marks["etag"]
    assert "30 Nov 2026" in marks["time"]
    assert not marks["size"]


def test_a_server_that_does_not_answer_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.store.failures.PAUSES", (0, 0))
    with pytest.raises(StoreError, match="refused"):
        Folder("http://127.0.0.1:9").exists("a.npy")
