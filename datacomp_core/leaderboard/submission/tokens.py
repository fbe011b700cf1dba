"""Who may submit: a file of names with the sha256 of each one's token. A token itself is shown once and stored nowhere."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from datacomp_core.errors import DataError, SpecError

PREFIX = "dc_"


def read(path: Path) -> dict[str, str]:
    """Name to sha256 of the token. DataError if the file is not there or none of ours."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} is not a file of tokens ({problem}): `datacomp leaderboard token NAME` makes one.") from problem
    if not isinstance(found, dict) or not all(isinstance(value, str) and len(value) == 64 for value in found.values()):
        raise DataError(f"{path} is not a file of tokens: `datacomp leaderboard token NAME` makes one.")
    return {str(name): str(value) for name, value in found.items()}


def add(path: Path, name: str) -> str:
    """A new token for a name, whose earlier one ends with it. The file is readable by its owner alone."""
    if not name.strip():
        raise SpecError("A token needs the name of who may use it.")
    token = PREFIX + secrets.token_urlsafe(32)
    known = read(path) if path.exists() else {}
    known[name] = _hash(token)
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(known, file, indent=1)
    temporary.replace(path)
    return token


def owner(known: dict[str, str], token: str) -> str | None:
    """Whose token it is; None if nobody's. Every name is compared, in the same time."""
    given, found = _hash(token), None
    for name, wanted in known.items():
        if hmac.compare_digest(given, wanted):
            found = name
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
