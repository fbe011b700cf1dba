"""A proxy before a real S3 server that fails, is slow, or refuses, and lies: met by the real client."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "lost reply", "cut")
ALL_FAULTS = (*FAULTS, "403", "404", "empty list", "slow")
SLOW_SECONDS = 2.0
LISTED = re.compile(rb"<(Contents|CommonPrefixes)>.*</\1>", re.DOTALL)


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `target`; a `share` of the requests fails in one of the ways `faults`, and those of `refused` clients with 403.

    `pause`: seconds that each request takes besides. `agents` and `signers` count who asked, and with which access key.
    `planned`: the fault that the request of a number meets, counted from 0 by `number`.
    """

    daemon_threads = True

    def __init__(self, target: str, share: float = 0.0, pause: float = 0.0) -> None:
        self.target, self.share, self.chance, self.pause = target.removeprefix("http://"), share, random.Random(0), pause
        self.met: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.signers: Counter[str] = Counter()
        self.refused = ""
        self.faults, self.planned, self.number = FAULTS, dict[int, str](), 0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Forward)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, headers: Message) -> str:
        agent = headers.get("User-Agent", "")
        with self.lock:
            self.agents["obstore" if "object_store" in agent else "s3fs" if "oto" in agent else agent] += 1
            self.signers[headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]] += 1
            if self.refused and self.refused in agent:
                return "403"
            fault = self.chance.choice(self.faults) if self.chance.random() < self.share else "none"
            fault = self.planned.get(self.number, fault)
            self.number += 1
            self.met[fault] += 1
            return fault


class Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        return

    def _forward(self) -> None:
        fault, body = self.server.fault(self.headers), self._body()
        self.close_connection = True
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(self.server.pause + (SLOW_SECONDS if fault == "slow" else 0))
        with self.server.lock:
            self.server.at_once -= 1
        if fault in ("500", "403") or (fault == "404" and self.command in ("GET", "HEAD") and "?" not in self.path):
            self.send_response(int(fault))
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
        if fault == "empty list" and b"<ListBucketResult" in data:
            data = LISTED.sub(b"", data).replace(b"<IsTruncated>true", b"<IsTruncated>false")
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


@contextmanager
def faulty_proxy(target: str, share: float = 0.0, pause: float = 0.0) -> Generator[FaultyProxy]:
    served = FaultyProxy(target, share, pause)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        served.shutdown()
        served.server_close()
