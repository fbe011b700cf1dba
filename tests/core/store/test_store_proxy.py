"""The store through a proxy that fails, before a real S3 server: 500s, lost replies and cut bodies, met by the real client."""

from __future__ import annotations

import http.client
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import StoreError
from datacomp_core.store import Folder, Store, bucket, step

FILES = {f"part-{number}": os.urandom(50_000) for number in range(4)}


class ProxySpec(Spec):
    scale: str = "tiny"
    number: int = 0


@step("pools", version=1)
def download(spec: ProxySpec, *, out: Folder) -> Pool:
    there = out.files()
    for name, data in FILES.items():
        if name not in there:
            out.write(name, data)
    return Pool(num_samples=len(FILES), num_parts=len(FILES))


class FaultyProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str, share: float) -> None:
        self.target, self.share, self.chance = target.removeprefix("http://"), share, random.Random(0)
        self.met: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Forward)

    def fault(self) -> str:
        with self.lock:
            fault = self.chance.choice(("500", "lost reply", "cut")) if self.chance.random() < self.share else "none"
            self.met[fault] += 1
            return fault


class Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        return

    def _forward(self) -> None:
        fault, body = self.server.fault(), self._body()
        self.close_connection = True
        if fault == "500":
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        onward = http.client.HTTPConnection(self.server.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        if "transfer-encoding" in {name.lower() for name in headers}:
            headers = {name: value for name, value in headers.items() if name.lower() != "transfer-encoding"}
        onward.request(self.command, self.path, body, headers)
        answer = onward.getresponse()
        data = answer.read()
        if fault == "lost reply":
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815 - the base's names


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    served = FaultyProxy(s3_server, 0.15)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(bucket, "PAUSES", (0.05, 0.1))
    yield served
    served.shutdown()
    served.server_close()


@pytest.mark.slow
def test_runs_through_a_faulty_proxy_end_with_what_a_run_without_one_gives(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = Store(Folder(s3_url))
    for number in range(12):
        spec = ProxySpec(number=number)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        s3fs.S3FileSystem.clear_instance_cache()
        sick, statuses = Store(Folder(s3_url)), list[str]()
        for _ in range(8):  # what a person or Prefect does: run it again
            try:
                statuses.append(download.run(spec, store=sick).status)
            except StoreError as problem:
                statuses.append(type(problem).__name__)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        store = Store(Folder(s3_url))
        assert statuses.count("built") <= 1, "once built it is not built again"
        outcome = download.run(spec, store=store)
        assert outcome.record.generation == 1, "nothing was called lost"
        found = store.folder(outcome.artifact)
        assert {name: found.read(name) for name in found.files()} == FILES
        assert store.missing(outcome.record) == ""
    assert min(proxy.met[fault] for fault in ("500", "lost reply", "cut")) > 5
