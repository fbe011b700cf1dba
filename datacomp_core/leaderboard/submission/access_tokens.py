"""Decides who may submit: a file of names with the sha256 of each user's token, and the public keys that must sign their bundles.

A token itself is shown once and stored nowhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.submission.signature import public_key
from datacomp_core.untrusted_documents import parse_json

PREFIX = "dc_"
HASH_DIGITS = 64
MAX_NAME = 60


class Sender(NamedTuple):
    """The owner of a token. With `keys`, bundles must be signed by one of them."""

    token: str
    keys: tuple[str, ...] = ()


def read(path: Path) -> dict[str, Sender]:
    """Senders by name. DataError if the file is not there or none of ours."""
    remedy = "`datacomp leaderboard token NAME` makes one."
    try:
        found = parse_json(path.read_bytes(), str(path))
    except (OSError, DataError) as problem:
        raise DataError(f"{path} is not a file of tokens ({problem}): {remedy}") from problem
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a file of tokens: {remedy}")
    return {name: _sender(value, f"{path} is not a file of tokens at {name[:60]!r}: {remedy}") for name, value in found.items()}


def _sender(value: object, told: str) -> Sender:
    given = value if isinstance(value, dict) else {"token": value}
    token, keys = given.get("token"), given.get("keys", [])
    if not isinstance(token, str) or len(token) != HASH_DIGITS or not token.isascii():
        raise DataError(told)
    if not isinstance(keys, list):
        raise DataError(told)
    try:
        return Sender(token, tuple(public_key(str(key)) for key in keys))
    except SpecError as problem:
        raise DataError(told) from problem


def add(path: Path, name: str, *, key: str | None = None) -> str:
    """A new token for a name, whose earlier one ends with it. The file is readable by its owner alone.

    `key` is the public key that must sign what this name sends; without one, the keys of before stay.
    """
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise SpecError(f"A token needs the name of its user, with at most {MAX_NAME} printable characters.")
    token = PREFIX + secrets.token_urlsafe(32)
    with _alone(path):
        known = read(path) if path.exists() else {}
        keys = (public_key(key),) if key is not None else known[name].keys if name in known else ()
        known[name] = Sender(_hash(token), keys)
        _write(path, known)
    return token


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Two who add at once both come in."""
    with os.fdopen(os.open(path.with_name(f".{path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, known: dict[str, Sender]) -> None:
    plain = {name: {"token": s.token, "keys": list(s.keys)} if s.keys else s.token for name, s in known.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(plain, file, indent=1)
    temporary.replace(path)


def owner(known: dict[str, Sender], token: str) -> str | None:
    """Return the owner of a token; None if it has none. Every name is compared, in constant time."""
    given, found = _hash(token), None
    for name, sender in known.items():
        if hmac.compare_digest(given, sender.token):
            found = name
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
