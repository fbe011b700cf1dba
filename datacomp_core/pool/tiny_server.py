"""Runs a local HTTP server for the embedded pool: a proxy that answers for the host of its urls. A client that uses it as its
`http_proxy` requests absolute urls; those of the pool's host are answered from `origin.parquet`,
dead ones with 404, other hosts with 502: nothing is fetched from outside.
"""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

import polars as pl

from datacomp_core.errors import DatacompError
from datacomp_core.store import Folder

HOST = "tiny.datacomp.invalid"  # RFC 2606: resolves nowhere
ORIGIN = "origin.parquet"

Answers = dict[str, tuple[str, bytes]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # img2dataset opens hundreds of connections at once

    def __init__(self, address: tuple[str, int], answers: Answers) -> None:
        self.answers = answers
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnects."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and image in one packet
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        host = url.hostname or self.headers.get("Host", "").partition(":")[0]
        if url.netloc and host != HOST:
            self._answer(HTTPStatus.BAD_GATEWAY, "text/plain", b"This proxy knows only the embedded pool.\n")
        elif found := cast("_Server", self.server).answers.get(url.path):
            self._answer(HTTPStatus.OK, *found)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"Not found.\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Log no requests; the downloader's ledger records each."""


@contextmanager
def serve(folder: Folder, port: int = 0) -> Generator[str]:
    """Answer for the pool in `folder` during the block; yield the proxy's url on 127.0.0.1.

    `port` 0 takes a free one. DatacompError if the port is taken; DataError if the folder has no `origin.parquet`.
    """
    frame = pl.read_parquet(io.BytesIO(folder.read(ORIGIN)))
    answers: Answers = {path: (media_type, image) for path, media_type, image in frame.iter_rows()}
    try:
        server = _Server(("127.0.0.1", port), answers)
    except OSError as problem:
        if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise DatacompError(
            f"Port {port} on 127.0.0.1 is not available ({problem.strerror}): give another one, or 0 for any free port."
        ) from problem
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name="tiny-pool")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
