"""A server that speaks as much of the hub's API as an upload needs: create, preupload, LFS batch, and a commit as ndjson."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_FROM = 2_000  # bytes; smaller files travel inside the commit
TOKEN = "hf_good"


class Hub(ThreadingHTTPServer):
    """`files` is what was committed, by path; `objects` what was uploaded to LFS, by sha256."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.repos: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def _say(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            self._say(400, {"error": "another object"})
            return
        self.server.objects[oid] = data
        self._say(200, {})

    def do_GET(self) -> None:
        self._say(404, {"error": self.path})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/lfs/" not in self.path:
            self._say(401, {"error": "who are you?"})
        elif self.path == "/api/repos/create":
            given = json.loads(body)
            self.server.repos.add(f"{given.get('organization')}/{given['name']}")
            self._say(200, {"url": f"{self.server.url}/{given.get('organization')}/{given['name']}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > LFS_FROM else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._say(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}} for o in json.loads(body)["objects"]
            ]
            self._say(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit(self.path.split("/")[3:5], [json.loads(line) for line in body.decode().splitlines()])
        else:
            self._say(404, {"error": self.path})

    def _commit(self, repo: list[str], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        self._say(
            200, {"commitUrl": f"{self.server.url}/{'/'.join(repo)}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}
        )


@contextmanager
def hub() -> Generator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
