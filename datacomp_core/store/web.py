"""Reads files of a web server as any server gives them: with or without a size, an etag, a time or ranges. "Not there" is only
what the server said. A file that states nothing by which a change shows has an empty mark.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacomp_core.store.bucket import BucketFiles
from datacomp_core.store.failures import with_retries

if TYPE_CHECKING:
    from httpx import Response

GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
BUSY = (408, 429, 500, 502, 503, 504)
TIMEOUT_SECONDS = 60
WEB = ("http://", "https://")


class WebFiles(BucketFiles):
    """As `BucketFiles`, of one web server."""

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file to a local path in one request; a retry resumes if the server has ranges and an etag."""
        target.write_bytes(b"")
        with_retries(_Download(path, target).go_on)

    def mark(self, path: str) -> str | None:
        """Size and etag or time; empty if the server states neither. None if there is no file."""
        info = self._info(path)
        if info is None:
            return None
        when = info["ETag"] or info["LastModified"]
        return f"{info['size']}:{when}" if when else ""

    def _info(self, path: str) -> dict[str, Any] | None:
        def ask() -> dict[str, Any] | None:
            try:
                return _stated(path)
            except FileNotFoundError:
                return None

        return with_retries(ask)


def _stated(url: str) -> dict[str, Any]:
    """Return what a server states about a file. Some servers answer only GET."""
    try:
        with _asked("HEAD", url) as answer:
            return _described(answer)
    except OSError:
        with _asked("GET", url) as answer:
            return _described(answer)


def _described(answer: Response) -> dict[str, Any]:
    head, size = answer.headers, answer.headers.get("Content-Length")
    is_plain = head.get("Content-Encoding", "identity") == "identity"
    stated = {"ETag": head.get("ETag", "").strip('"'), "LastModified": head.get("Last-Modified", "")}
    return {"name": str(answer.url), "type": "file", "size": int(size) if size and is_plain else None, **stated}


class _Download:
    """One file on its way to a local path."""

    def __init__(self, url: str, target: Path) -> None:
        self.url, self.target, self.etag = url, target, ""

    def go_on(self) -> None:
        start = self.target.stat().st_size
        resumed = {"Range": f"bytes={start}-", "If-Range": self.etag} if start and self.etag else {}
        with _asked("GET", self.url, **resumed) as answer:
            etag = answer.headers.get("ETag", "")
            self.etag = "" if etag.startswith("W/") else etag  # a weak one does not tell that the bytes are the same
            with self.target.open("ab" if answer.status_code == HTTPStatus.PARTIAL_CONTENT else "wb") as file:
                for block in answer.iter_raw():  # unbuffered: bytes collected in larger blocks would be lost with the connection
                    file.write(block)


@contextmanager
def _asked(method: str, url: str, **headers: str) -> Generator[Response]:
    """The answer to a request. OSErrors tell what a server refuses; one that is busy may be asked again."""
    import httpx

    plain = {"Accept-Encoding": "identity", **headers}
    try:
        with httpx.stream(method, url, headers=plain, follow_redirects=True, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status_code in GONE:
                raise FileNotFoundError(errno.ENOENT, "No such file", url)
            if answer.is_error:
                lasting = errno.EIO if answer.status_code in BUSY else errno.EINVAL
                raise OSError(lasting, f"the server answers {answer.status_code} {answer.reason_phrase}")
            yield answer
    except httpx.InvalidURL as problem:
        raise OSError(errno.EINVAL, str(problem)) from problem
    except httpx.HTTPError as problem:
        raise OSError(errno.EIO, f"{problem or type(problem).__name__}") from problem
