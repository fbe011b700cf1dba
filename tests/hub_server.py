"""A server of the hub's shape on loopback, from files in memory: listing in pages, redirects, ranges, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 200  # bytes; from here on a file is listed as the hub lists large ones, with sha256
PAGE = 3


class LocalHub:
    """`repositories["datasets/owner/name"]` or `["models/owner/name"]` holds files by path."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.cut: dict[str, int] = {}  # path -> how many times its bytes shall end half way
        self.changed: set[str] = set()  # paths that are sent with other bytes than are listed
        self.truncated: set[str] = set()  # paths of which the first half is sent as if it were all
        self.busy: dict[str, int] = {}  # path -> how many times to answer 503
        self.private: set[str] = set()
        self.sent: Counter[str] = Counter()  # bytes, by path
        self.tokens: list[tuple[str, str]] = []  # where a token arrived
        self.url = ""

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1(repository.encode())
        for path, data in sorted(self.repositories[repository].items()):
            digest.update(path.encode() + data)
        return digest.hexdigest()


@contextmanager
def serving(host: str = "127.0.0.1", port: int = 0) -> Generator[LocalHub]:
    hub = LocalHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer((host, port), Handler)
    hub.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if self.headers.get("Authorization"):
            self.hub.tokens.append((path.split("/")[0], self.headers["Authorization"]))
        if path.startswith("api/"):
            self._interface(path.removeprefix("api/"))
        elif path.startswith("cdn/"):
            self._bytes(*path.removeprefix("cdn/").split("//", 1))
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._answer(404)

    def _interface(self, path: str) -> None:
        if path.count("/") < 4:  # huggingface_hub's own questions
            self._answer(404)
            return
        kind, owner, name, what, revision = path.split("/", 4)
        repository = f"{kind}/{owner}/{name}"
        if repository in self.hub.private and not self.headers.get("Authorization"):
            self._answer(401)
        elif repository not in self.hub.repositories:
            self._answer(404)
        elif what == "revision":
            self._answer(200, json.dumps({"id": f"{owner}/{name}", "sha": self.hub.commit(repository)}).encode())
        else:
            files = sorted(self.hub.repositories[repository].items())
            start = int(urlsplit(self.path).query.partition("cursor=")[2] or 0)
            link = {}
            if start + PAGE < len(files):
                following = f"{self.hub.url}/api/{kind}/{owner}/{name}/tree/{revision}?recursive=true&cursor={start + PAGE}"
                link = {"Link": f'<{following}>; rel="next"'}
            listed = [_entry(name, data) for name, data in files[start : start + PAGE]]
            self._answer(200, json.dumps([{"type": "directory", "path": "test", "oid": "0" * 40}, *listed]).encode(), link)

    def _resolve(self, path: str) -> None:
        kind = "datasets" if path.startswith("datasets/") else "models"
        place, _, rest = path.removeprefix("datasets/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        repository = f"{kind}/{place}"
        if commit != self.hub.commit(repository) or name not in self.hub.repositories[repository]:
            self._answer(404)
        elif self.hub.busy.get(name, 0) > 0:
            self.hub.busy[name] -= 1
            self._answer(503)
        elif len(self.hub.repositories[repository][name]) >= LARGE:
            self._answer(302, headers={"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{repository}//{name}"})
        else:
            self._bytes(repository, name)

    def _bytes(self, repository: str, name: str) -> None:
        data = self.hub.repositories[repository][name]
        if name in self.hub.changed:
            data = bytes(len(data))
        if name in self.hub.truncated:
            data = data[: len(data) // 2]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        piece = data[start:]
        if self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            piece = piece[: len(piece) // 2]
        self.hub.sent[name] += len(piece)
        self.wfile.write(piece)

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if len(data) >= LARGE:
        pointer = b"version https://git-lfs.github.com/spec/v1\n"
        return {
            **entry,
            "oid": hashlib.sha1(pointer).hexdigest(),
            "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134},
        }
    return {**entry, "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
