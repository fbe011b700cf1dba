"""Transfers bulk bytes of S3 with obstore (Rust): many ranges, small files read and written. s3fs does the rest, and everything
that fails here.

A range costs s3fs nine times the CPU, a small file sixteen times (`benchmarks/bucket.py`); a large upload only twice, so it
stays with s3fs, as do listings, conditional writes and deletions. Endpoint, region and credentials are taken from s3fs's
client. An error of obstore decides nothing: the caller asks s3fs again, whose errors have a meaning ("not there", "cannot
tell", "try again"), so that no failure is classified twice and no message of another library is shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from fsspec.asyn import sync

log = logging.getLogger(__name__)
R = TypeVar("R")

PLAIN_KEY = re.compile(r"[A-Za-z0-9_=+@,-][A-Za-z0-9_.=+@,-]*(/[A-Za-z0-9_=+@,-][A-Za-z0-9_.=+@,-]*)*")
"""Matches keys that every library encodes alike."""
PLAIN_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
COALESCED_BYTES = 64 << 10
"""Ranges of one file that are this close are one request: a request costs as much as these bytes."""
FILES_AT_ONCE = 64
CONNECT_SECONDS, READ_SECONDS = "10s", "60s"
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
FAILURES = 3
"""After this number of consecutive failures that s3fs did not have, a bucket is left to s3fs: its region or gateway is not
obstore's."""
KEEP_SECONDS = 300
"""How long credentials are used without asking s3fs's client, which renews them, again."""

_guard = threading.Lock()
_of_client: dict[int, tuple[weakref.ref[Any], dict[str, Bulk | None]]] = {}
_process: list[int] = []


class Bulk:
    """Requests to one bucket at the endpoint of one s3fs client, with its credentials."""

    def __init__(self, fs: Any, bucket: str, store: Any) -> None:
        self._fs, self._store, self._bucket = weakref.ref(fs), store, bucket
        self._failures = 0

    @property
    def is_given_up(self) -> bool:
        return self._failures >= FAILURES

    def served(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        """The bulk path failed where s3fs then did not."""
        self._failures += 1
        if self.is_given_up:
            log.info("%s is read only by s3fs: obstore cannot", self._bucket)

    def get(self, key: str, most: int) -> tuple[bytes, int] | None:
        """`(bytes, size)` of a file; no bytes if it has more than `most`. None if it failed."""
        import obstore

        def ask() -> tuple[bytes, int]:
            answer = obstore.get(self._store, key)
            size = int(answer.meta["size"])
            return (bytes(answer.bytes()), size) if size <= most else (b"", size)

        return self._tried(ask)

    def ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes] | None:
        """The bytes of each (key, start, end). None if one of them failed or came short."""
        by_key: dict[str, list[int]] = {}
        for place, (key, _, _) in enumerate(wanted):
            by_key.setdefault(key, []).append(place)
        fs = self._fs()
        if fs is None:
            return None
        return self._tried(lambda: sync(fs.loop, self._gathered, wanted, by_key))

    def put(self, key: str, data: bytes) -> bool:
        """Write a small file with one request; False if it failed, although the file may then exist."""
        import obstore

        return self._tried(lambda: obstore.put(self._store, key, data, use_multipart=False)) is not None

    async def _gathered(self, wanted: Sequence[tuple[str, int, int]], by_key: dict[str, list[int]]) -> list[bytes]:
        import obstore

        found: list[bytes] = [b""] * len(wanted)
        free = asyncio.Semaphore(FILES_AT_ONCE)

        async def one(key: str, places: list[int]) -> None:
            starts, ends = [wanted[place][1] for place in places], [wanted[place][2] for place in places]
            async with free:
                data = await obstore.get_ranges_async(self._store, key, starts=starts, ends=ends, coalesce=COALESCED_BYTES)
            for place, some in zip(places, data, strict=True):
                found[place] = bytes(some)
                if len(found[place]) != wanted[place][2] - wanted[place][1]:
                    raise EOFError(key)

        await asyncio.gather(*(one(key, places) for key, places in by_key.items()))
        return found

    def _tried(self, request: Callable[[], R]) -> R | None:
        try:
            found = request()
        except Exception as problem:  # for any error: s3fs repeats the request and explains it
            log.debug("obstore: %s", type(problem).__name__)
            return None
        self.served()
        return found


def is_plain(bucket: str, key: str) -> bool:
    """Whether a name means the same to both libraries."""
    return bool(PLAIN_BUCKET.fullmatch(bucket) and not bucket.endswith("--x-s3") and PLAIN_KEY.fullmatch(key))


def bulk_of(fs: Any, bucket: str) -> Bulk | None:
    """The bulk reader of a bucket; None where s3fs is to do it: other options than obstore has, or a forked process."""
    if _process and _process[0] != os.getpid():  # obstore's threads did not come along
        return None
    with _guard:
        held = _of_client.get(id(fs))
        if held is None or held[0]() is not fs:
            for number in [number for number, (client, _) in _of_client.items() if client() is None]:
                del _of_client[number]
            held = _of_client[id(fs)] = (weakref.ref(fs), {})
        if bucket not in held[1]:
            try:
                held[1][bucket] = _opened(fs, bucket)
            except Exception as problem:  # no credentials, no endpoint: s3fs says so in its own words
                log.debug("obstore cannot open %s: %s", bucket, type(problem).__name__)
                held[1][bucket] = None
        found = held[1][bucket]
    return None if found is None or found.is_given_up else found


def _opened(fs: Any, bucket: str) -> Bulk | None:
    if fs.s3_additional_kwargs or fs.req_kw or fs.config_kwargs:
        return None  # encryption keys of the customer, requester pays, a client's own settings
    if set(fs.client_kwargs) - {"endpoint_url", "region_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"}:
        return None
    from obstore.store import S3Store

    client: Any = sync(fs.loop, fs.set_session)
    if client.meta.endpoint_url.startswith("https:") and any(os.environ.get(name) for name in CERTIFICATES):
        return None  # obstore would trust others than these
    options: dict[str, Any] = {"skip_signature": True} if fs.anon else {"credential_provider": _provider(fs.loop, client)}
    store = S3Store(
        bucket,
        endpoint=client.meta.endpoint_url,
        region=client.meta.region_name or "us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "connect_timeout": CONNECT_SECONDS, "timeout": READ_SECONDS},
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=60)},
        **options,
    )
    _process[:] = [os.getpid()]
    return Bulk(fs, bucket, store)


def _provider(loop: Any, client: Any) -> Callable[[], dict[str, Any]]:
    """Return the credentials provider of s3fs's client, renewed by s3fs."""
    signed_by: Any = client._request_signer._credentials

    def provide() -> dict[str, Any]:
        now: Any = sync(loop, signed_by.get_frozen_credentials)
        until = datetime.now(UTC) + timedelta(seconds=KEEP_SECONDS)
        return {"access_key_id": now.access_key, "secret_access_key": now.secret_key, "token": now.token, "expires_at": until}

    return provide
