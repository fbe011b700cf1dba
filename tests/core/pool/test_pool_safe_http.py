"""A hostile web over real sockets: nothing of it gets through, nothing of it stops the download, each has its reason."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from images_world import jpeg, rows_of, write_pool

from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.pool.safe_http import (
    BlockedAddressError,
    BodyTooLargeError,
    RequestLimits,
    SafeOpener,
    TooSlowError,
    is_blocked,
)
from datacomp_core.store import Store

BOMB = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'
ONLY_ONE = "127.0.0.1/32"  # so that 127.0.0.2 stands for the private address nobody may reach


def png(side: int, data: bytes) -> bytes:
    """A PNG whose header is true, whatever its data."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class _Hostile(BaseHTTPRequestHandler):
    hits: Counter[str] = Counter()

    def do_GET(self) -> None:
        self.hits[self.path] += 1
        port = self.server.server_address[1]
        away = {
            "/to-private": f"http://127.0.0.2:{port}/ok",
            "/to-cloud": "http://169.254.169.254/latest/meta-data/",
            "/to-file": "file:///etc/passwd",
            "/to-ftp": "ftp://127.0.0.1/x",
            "/around": "/around",
            "/to-itself": f"http://rebinding.example:{port}/inside",
        }
        if self.path in away:
            self._head(302, Location=away[self.path])
        elif self.path == "/endless":
            self._head(200)
            self._pour(bytes(1 << 16), 0)
        elif self.path == "/drip":
            self._head(200)
            self._pour(b"x", 0.2)
        elif self.path == "/drip-head":
            self._pour(b"H", 0.2)
        else:
            bodies = {
                "/png": png(50_000, zlib.compress(bytes(100_000))),
                "/svg": BOMB,
                "/broken": png(10, b"none"),
                "/tiny": jpeg(1, (4, 4)),
                "/strip": jpeg(1, (90, 10)),
            }
            body = bodies.get(self.path, jpeg(1))
            self._head(200, **{"Content-Type": "text/html" if self.path == "/wrong-type" else "image/jpeg"})
            self.wfile.write(body)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _pour(self, piece: bytes, pause: float) -> None:
        for _ in range(100_000):
            try:
                self.wfile.write(piece)
            except OSError:
                return
            time.sleep(pause)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextmanager
def hostile() -> Iterator[tuple[int, Counter[str]]]:
    hits: Counter[str] = Counter()
    server = _Server(("0.0.0.0", 0), type("Handler", (_Hostile,), {"hits": hits}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], hits
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


WANTED = {
    "/to-private": "blocked_address",
    "/to-cloud": "blocked_address",
    "/to-file": "redirect",
    "/to-ftp": "bad_url",
    "/around": "redirect",
    "/endless": "too_large",
    "/drip": "timeout",
    "/drip-head": "timeout",
    "/png": "too_many_pixels",
    "/svg": "not_an_image",
    "/broken": "decode",
    "/wrong-type": None,
    "/ok": None,
}


REBINDING = """
import socket
asked, found = [], socket.getaddrinfo
def getaddrinfo(host, *more, **options):
    if host == "rebinding.example":  # a name server that answers otherwise each time
        asked.append(host)
        host = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
    return found(host, *more, **options)
socket.getaddrinfo = getaddrinfo
"""


def test_every_attack_has_its_reason_and_the_good_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ImageSpec(image_size=64, samples_per_shard=50, timeout_seconds=2, retries=1, max_bytes=1 << 20, max_seconds=3)
    spec = spec.model_copy(update={"hash_mismatch": "drop", "min_image_size": 5, "max_aspect_ratio": 4.0})
    (tmp_path / "sitecustomize.py").write_text(REBINDING)  # what the download's processes load at their start
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with hostile() as (port, hits), unsigned(tmp_path) as closed:
        urls = [f"http://127.0.0.1:{port}{path}" for path in WANTED]
        wanted = dict(zip(urls, WANTED.values(), strict=True))
        private = [f"http://127.0.0.2:{port}/ok", f"http://[::1]:{port}/ok", "http://10.0.0.1/"]
        wanted |= dict.fromkeys(private, "blocked_address")
        wanted |= {"http://169.254.169.254/": "blocked_address", "ftp://127.0.0.1/x": "bad_url", "file:///etc/passwd": "bad_url"}
        wanted |= {f"https://127.0.0.1:{closed}/ok": "tls", f"http://127.0.0.1:{port}/other": "hash_mismatch"}
        wanted |= {f"http://127.0.0.1:{port}/tiny": "too_small", f"http://127.0.0.1:{port}/strip": "too_long"}
        # The first look leads to a good host that sends on to the same name; the second must not lead inside.
        wanted[f"http://rebinding.example:{port}/to-itself"] = "blocked_address"
        rows = rows_of(list(wanted))
        rows = rows.with_columns(sha256=pl.when(pl.col("url").str.ends_with("/other")).then(pl.lit("0" * 64)))
        pool = write_pool(tmp_path / "pool", [rows])
        store = Store.open(str(tmp_path))
        shards = download_images(spec, pool, store=store, threads=32, open_networks=ONLY_ONE)
        endless, inside = hits["/endless"], hits["/inside"]
    book = pl.read_parquet(store.folder(shards).path / "ledger/00000000.parquet")
    assert dict(zip(wanted, book["reason"], strict=True)) == wanted
    assert inside == 0
    assert endless == 1  # what will not change is not asked for again
    assert book["seconds"].max() < 15  # two tries of three seconds, on a slow machine
    assert shards.num_samples == 2


def test_a_name_that_changes_its_address_is_connected_to_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    connected: list[Any] = []

    class Socket(socket.socket):
        def connect(self, place: Any) -> None:
            connected.append(place[0])
            raise ConnectionRefusedError("no net here")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", Socket)
    opener = SafeOpener(RequestLimits(1 << 20, 5), {})
    with pytest.raises(OSError, match="no net here"):
        opener.open("http://rebinding.example/x", timeout=2)
    assert (asked, connected) == (["rebinding.example"], ["93.184.216.34"])  # asked once; that one is connected to
    with pytest.raises(BlockedAddressError, match="127.0.0.1"):
        opener.open("http://rebinding.example/x", timeout=2)
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "168.63.129.16", "192.0.0.192", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_addresses_nobody_is_sent_to(address: str) -> None:
    assert is_blocked(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"])
def test_the_public_net_is_open(address: str) -> None:
    assert not is_blocked(address)


def test_the_allow_list_opens_what_it_names_alone() -> None:
    networks = [ipaddress.ip_network("127.0.0.0/8")]
    assert not is_blocked("127.0.0.1", networks)
    assert not is_blocked("::ffff:127.0.0.1", networks)
    assert is_blocked("10.0.0.1", networks)


def test_limits_hold_in_a_plain_opener() -> None:
    opener = SafeOpener(RequestLimits(100_000, 1.5, ("127.0.0.0/8",)), {})
    with hostile() as (port, _):
        with opener.open(f"http://127.0.0.1:{port}/ok", timeout=5) as answer:
            assert answer.read() == jpeg(1)
        with pytest.raises(BodyTooLargeError), opener.open(f"http://127.0.0.1:{port}/endless", timeout=5) as answer:
            answer.read()
        for path in ("drip", "drip-head"):
            began = time.monotonic()
            with pytest.raises(TooSlowError), opener.open(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                answer.read()
            assert time.monotonic() - began < 30


@contextmanager
def unsigned(folder: Path) -> Iterator[int]:
    """The port of a server with a certificate that nobody signed."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=x"]
    subprocess.run([*made, "-days", "2"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = _Server(("127.0.0.1", 0), _Hostile)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    with unsigned(tmp_path) as port:
        opener = SafeOpener(RequestLimits(1 << 20, 10, ("127.0.0.0/8",)), {})
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            opener.open(f"https://127.0.0.1:{port}/ok", timeout=5)


def test_verification_cannot_be_switched_off_for_the_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people paste from the web: in a file of one's own filter it would hold for the download too."""
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    test_a_certificate_that_nobody_signed_is_refused(tmp_path)
