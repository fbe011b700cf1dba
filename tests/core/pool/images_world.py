"""A little web of real JPEGs and of everything that goes wrong, and pools whose urls point at it."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from datacomp_core.artifacts import Pool
from datacomp_core.parts import SCHEMA
from datacomp_core.uid import uid_of

LOOPBACK = "127.0.0.0/8"


def untimed(ledger: bytes) -> pl.DataFrame:
    """A ledger without what differs between two equal downloads: how long each took, and when."""
    return pl.read_parquet(io.BytesIO(ledger)).drop("seconds", "at")


def jpeg(number: int, size: tuple[int, int] = (90, 60)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    hits: Counter[str] = Counter()
    pictures: dict[str, bytes] = {}

    def do_GET(self) -> None:
        kind, _, number = self.path.strip("/").removesuffix(".jpg").partition("/")
        self.hits[self.path] += 1
        if kind == "status":
            self.send_error(int(number))
            return
        if kind == "slow":
            time.sleep(3)
        if kind == "busy" and self.hits[self.path] == 1:
            self.send_response(429)
            self.send_header("Retry-After", number)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = (
            b"<html>no picture</html>"
            if kind == "html"
            else b""
            if kind == "empty"
            else self.pictures.get(self.path) or jpeg(int(number))
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (1000 if kind == "cut" else 0)))
        if kind == "noai":
            self.send_header("X-Robots-Tag", "noai")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no event."""


@contextmanager
def web(pictures: dict[str, bytes] | None = None, *, host: str = "127.0.0.1") -> Iterator[tuple[str, Counter[str]]]:
    """The address of the server and what was asked of it, by path. `pictures` are served under their paths."""
    hits: Counter[str] = Counter()
    server = _Server((host, 0), type("Handler", (_Handler,), {"hits": hits, "pictures": pictures or {}}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hits
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows_of(urls: list[str], **more: list[Any]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {name: [None] * len(urls) for name in SCHEMA}
    texts = [f"caption of {number} é" for number in range(len(urls))]
    columns |= {"uid": [uid_of(url, text) for url, text in zip(urls, texts, strict=True)], "url": urls, "text": texts}
    columns["face_bboxes"] = [[] for _ in urls]
    return pl.DataFrame(columns | more, schema=SCHEMA)


def write_pool(folder: Path, parts: list[pl.DataFrame]) -> Pool:
    """A pool in `folder`, which must lie in a store's root."""
    (folder / "metadata").mkdir(parents=True)
    for number, part in enumerate(parts):
        part.write_parquet(folder / f"metadata/{number:08d}.parquet")
    total = sum(part.height for part in parts)
    return Pool(scale="tiny", name="web", data=folder.name, fingerprint="f" * 64, num_samples=total, num_parts=len(parts))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
