"""One stable hash for what a step is: canonical JSON, then sha256.

What has no stable form (a set, NaN, an object, a callable) is refused, never guessed: two processes must always agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

SHORT = 12


def canonical(value: Any) -> Any:
    """`value` as plain JSON types. TypeError or ValueError names what has no stable form."""
    if isinstance(value, BaseModel):
        return {name: canonical(getattr(value, name)) for name in sorted(type(value).model_fields)}
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} has no stable form: a spec holds finite numbers")
        return value
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping in a spec has text keys only")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, PurePath):
        raise TypeError(f"a path ({value}) is where something lies, not what it is: pass an artifact, or text")
    raise TypeError(f"{type(value).__name__} has no stable form: use text, numbers, lists, mappings or specs")


def canonical_json(value: Any) -> str:
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits of sha256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
