"""Protects downloads from a hostile web: limits what a download connects to, waits for and reads.

The address is checked on the connection itself: a name is resolved once and the checked address is the one connected to, so
neither a redirect nor DNS rebinding gets around it. A watcher cuts a connection at its deadline wherever it hangs: in the TLS
handshake, in the headers or in the body. TLS certificates are verified.
"""

from __future__ import annotations

import contextlib
import heapq
import ipaddress
import itertools
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection, InvalidURL
from typing import Any
from urllib.parse import urlsplit

from datacomp_core.errors import SpecError
from datacomp_core.pool.blocked_addresses import is_blocked, is_blocked_host
from datacomp_core.pool.host_backoff import HostBackoff

BLOCK = 1 << 16
TICK_SECONDS = 0.25


class BlockedAddressError(OSError):
    """The host has a forbidden address."""


class BodyTooLargeError(OSError):
    """The body is larger than the cap."""


class TooSlowError(OSError):
    """The whole of a request took longer than the cap."""


@dataclass(frozen=True)
class RequestLimits:
    """`open_networks` are private networks that may be reached."""

    max_bytes: int
    max_seconds: float
    open_networks: tuple[str, ...] = ()


def networks(text: str) -> tuple[str, ...]:
    """Parse the networks to open, separated by blanks or commas. SpecError if one is invalid."""
    found = tuple(text.replace(",", " ").split())
    for name in found:
        try:
            ipaddress.ip_network(name)
        except ValueError as problem:
            raise SpecError(f"{name!r} is not a network ({problem}): give one such as 10.0.0.0/8 (--open-networks).") from problem
    return found


class DeadlineWatchdog:
    """One thread that cuts connections at their deadlines."""

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._held: dict[int, socket.socket] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._run, daemon=True, name="deadlines").start()

    def add(self, connection: socket.socket, deadline: float) -> int:
        """Watch a connection; keep a copy of its handle, because TLS takes over the handle itself."""
        held = connection.dup()
        with self._guard:
            number = next(self._numbers)
            self._held[number] = held
            heapq.heappush(self._waiting, (deadline, number))
            self._guard.notify()
        return number

    def release(self, number: int) -> None:
        with self._guard:
            held = self._held.pop(number, None)
        if held is not None:
            held.close()

    def _run(self) -> None:
        while True:
            with self._guard:
                while not self._waiting:
                    self._guard.wait()
                now = time.monotonic()
                late = []
                while self._waiting and self._waiting[0][0] <= now:
                    held = self._held.pop(heapq.heappop(self._waiting)[1], None)
                    late += [held] if held else []
            for held in late:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    held.shutdown(socket.SHUT_RDWR)
                held.close()
            time.sleep(TICK_SECONDS)


class _Request(threading.local):
    """The limits of the thread's current request."""

    deadline = 0.0
    depth = 0
    watched: list[int]
    refused: tuple[str, OSError] | None = None

    def __init__(self) -> None:
        self.watched = []


class SafeOpener(urllib.request.OpenerDirector):
    """urllib's opener for http and https only, under `limits`. Proxies are trusted: behind a proxy, the proxy connects."""

    def __init__(self, limits: RequestLimits, proxies: Mapping[str, str]) -> None:
        super().__init__()
        self.limits, self.request, self.watch = limits, _Request(), DeadlineWatchdog()
        self.politeness = HostBackoff()
        self.networks = [ipaddress.ip_network(name) for name in limits.open_networks]
        self.proxies = {_endpoint(url) for url in proxies.values()}
        for handler in (
            urllib.request.ProxyHandler(dict(proxies)),
            urllib.request.UnknownHandler(),
            _Http(self),
            _Https(self),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self.add_handler(handler)

    def open(self, fullurl: Any, data: Any = None, timeout: Any = 10) -> Any:
        """The answer to a request, its redirects included, all within one deadline."""
        request, url = self.request, getattr(fullurl, "full_url", fullurl)
        if request.depth:  # a redirect
            return super().open(fullurl, data, timeout)
        if request.refused is not None and request.refused[0] == url:
            raise request.refused[1]  # a retry would not change this
        request.deadline, request.depth, request.refused = time.monotonic() + self.limits.max_seconds, 1, None
        self.politeness.wait(url, request.deadline)
        try:
            if "@" in urlsplit(url).netloc:
                raise InvalidURL("user name in the url")
            answer = super().open(fullurl, data, timeout)
        except urllib.error.HTTPError as error:  # it contains the connection
            self.politeness.heed(url, error)
            error.close()
            self.end()
            raise
        except (OSError, HTTPException) as error:
            self.end()
            raise self._told(url, error) from error
        except BaseException:
            self.end()
            raise
        finally:
            request.depth = 0
        return _Answer(self, url, answer)

    def connect(self, address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        """Return a connection to a checked address; OSError if there is none."""
        problem: OSError | None = None
        for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            if address not in self.proxies and is_blocked(str(place[0]), self.networks):
                problem = BlockedAddressError(f"blocked address {place[0]}")
                continue
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(max(0.01, min(float(timeout or 10), self.request.deadline - time.monotonic())))
                connection.connect(place)
            except OSError as error:
                problem = error
                connection.close()
                continue
            connection.settimeout(timeout)
            self.request.watched.append(self.watch.add(connection, self.request.deadline))
            return connection
        raise problem or OSError(f"no address associated with {address[0]}")

    def end(self) -> None:
        """The current request has ended."""
        for number in self.request.watched:
            self.watch.release(number)
        self.request.watched = []

    def is_late(self) -> bool:
        return time.monotonic() >= self.request.deadline

    def remember(self, url: str, problem: OSError) -> None:
        self.request.refused = (url, problem)

    def _told(self, url: str, error: Exception) -> Exception:
        if self.is_late():
            return TooSlowError(f"timed out: incomplete after {self.limits.max_seconds:g} s")
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, BlockedAddressError):
            self.remember(url, cause)
            return cause
        return error


class _Answer:
    """The parts of an answer that img2dataset uses: headers, and a body that is read within the limits."""

    def __init__(self, opener: SafeOpener, url: str, answer: Any) -> None:
        self._opener, self._url, self._answer = opener, url, answer
        self.headers = answer.headers

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._opener.end()

    def read(self) -> bytes:
        most = self._opener.limits.max_bytes
        length = self.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > most:
            raise self._too_large(most)
        blocks: list[bytes] = []
        size = 0
        try:
            while block := self._answer.read(BLOCK):
                blocks.append(block)
                size += len(block)
                if size > most:
                    raise self._too_large(most)
        except BodyTooLargeError:
            raise
        except (OSError, HTTPException) as error:
            if self._opener.is_late():
                raise TooSlowError(f"timed out: incomplete after {self._opener.limits.max_seconds:g} s") from error
            raise
        if self._opener.is_late():
            raise TooSlowError(f"timed out: incomplete after {self._opener.limits.max_seconds:g} s")
        if length.isdigit() and size < int(length):
            raise HTTPException(f"IncompleteRead({size} bytes read, {int(length) - size} more expected)")
        return b"".join(blocks)

    def _too_large(self, most: int) -> BodyTooLargeError:
        problem = BodyTooLargeError(f"body too large: over {most} bytes")
        self._opener.remember(self._url, problem)
        return problem


class _Http(urllib.request.HTTPHandler):
    def __init__(self, opener: SafeOpener) -> None:
        super().__init__()
        self._opener = opener

    def http_open(self, req: Any) -> Any:
        _refuse_host(self._opener, req)
        return self.do_open(_connected_by(HTTPConnection, self._opener), req)


class _Https(urllib.request.HTTPSHandler):
    """Opens https urls with a separate TLS context, because any code may weaken the process's default."""

    def __init__(self, opener: SafeOpener) -> None:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        super().__init__(context=context)
        self._opener = opener

    def https_open(self, req: Any) -> Any:
        _refuse_host(self._opener, req)
        return self.do_open(_connected_by(HTTPSConnection, self._opener), req, context=self._context)  # pyright: ignore


def _connected_by(kind: type[HTTPConnection], opener: SafeOpener) -> Any:
    def made(*given: Any, **options: Any) -> HTTPConnection:
        connection = kind(*given, **options)
        connection._create_connection = opener.connect  # pyright: ignore
        return connection

    return made


def _refuse_host(opener: SafeOpener, request: Any) -> None:
    """Behind a proxy we cannot check the connection, but we check the host in the url."""
    host = urlsplit(request.full_url).hostname or ""
    if opener.proxies and is_blocked_host(host, opener.networks):
        raise urllib.error.URLError(BlockedAddressError(f"blocked address {host}"))


def _endpoint(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
