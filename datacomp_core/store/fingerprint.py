"""Computes one stable hash of a step: canonical JSON of its identity, then sha256.

The identity of a model leaves out fields at their default, so that adding a field with a default leaves every address valid, and
names for people, so that two names of one thing are one identity. A model's `version` is added once it is raised.
Values without a stable form (a set, NaN, an object, a callable) are rejected, never guessed: two processes must always agree.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

SHORT = 12
PINNED_FILE = re.compile(r".+#([0-9a-f]{12,64})", re.DOTALL)
"""In a filter or score: a file whose name carries the digits of its content, which alone are its identity."""
PINNED_PARAMETER = re.compile(r'(?<==)(?:"[^"]*#([0-9a-f]{12,64})"|[^",]*#([0-9a-f]{12,64})(?=,|$))')
WITH_PARAMETERS = re.compile(r"\w+:\w+=")
"""How the full name of a score to compute begins: `column_of:column=v,file=/tmp/v.csv#5c27719cb8f8201a`."""


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
            raise ValueError(f"{value!r} has no stable form: a spec may contain only finite numbers")
        return value
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping in a spec may have only text keys")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, PurePath):
        raise TypeError(f"a path ({value}) is a location, not an identity: pass an artifact, or text")
    raise TypeError(f"{type(value).__name__} has no stable form: use text, numbers, lists, mappings or specs")


def identity(value: Any) -> Any:
    """`value` as plain JSON types, reduced to what it means: this is what is hashed. Errors as `canonical`."""
    if isinstance(value, BaseModel):
        return _of_model(value)
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    if isinstance(value, dict):
        canonical(dict.fromkeys(value))
        return {key: identity(value[key]) for key in sorted(value)}
    return canonical(value)


def _of_model(value: BaseModel) -> dict[str, Any]:
    kind = type(value)
    names: frozenset[str] = getattr(kind, "names_for_people", frozenset())
    found: dict[str, Any] = {}
    for name, field in sorted(kind.model_fields.items()):
        given = getattr(value, name)
        if name in names or not (_is_tag(name, field) or _differs(given, field)):
            continue
        found[name] = of_content(identity(given)) if getattr(kind, "pins_files", False) else identity(given)
    version = getattr(kind, "version", 1)
    if isinstance(version, int) and version != 1 and "version" not in kind.model_fields:
        found["version"] = version
    return found


def without_places(text: str) -> str:
    """`text` with the places of pinned files left out: two copies of one file are one name, wherever they are."""
    if WITH_PARAMETERS.match(text):
        return PINNED_PARAMETER.sub(lambda part: f"#{part[1] or part[2]}", text)
    found = PINNED_FILE.fullmatch(text)
    return f"#{found[1]}" if found else text


def short_places(text: str) -> str:
    """`text` with each pinned file called by its name alone, for people: `column_of:column=v,file=v.csv`."""
    if WITH_PARAMETERS.match(text):
        return PINNED_PARAMETER.sub(lambda part: short_place(part[0].strip('"')), text)
    return short_place(text) if PINNED_FILE.fullmatch(text) else text


def short_place(name: str) -> str:
    """Return the short name of a place for titles: its last part, without the query of a web address, which may be a secret."""
    place = name.rpartition("#")[0] if PINNED_FILE.fullmatch(name) else name
    return without_query(place).rstrip("/").rpartition("/")[2]


def without_query(place: str) -> str:
    """A place without the query of a web address."""
    return place.partition("?")[0] if place.startswith(("http://", "https://")) else place


def of_content(value: Any) -> Any:
    """Plain JSON types with the places of pinned files left out of every text and name."""
    if isinstance(value, list):
        return [of_content(item) for item in value]
    if isinstance(value, dict):
        return {of_content(name): of_content(item) for name, item in value.items()}
    return without_places(value) if isinstance(value, str) else value


def _is_tag(name: str, field: FieldInfo) -> bool:
    """A field with one possible value tells kinds of models apart, and foreign code is named by its identity."""
    return name in ("kind", "code") or (get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1)


def _differs(given: Any, field: FieldInfo) -> bool:
    return field.is_required() or given != field.get_default(call_default_factory=True, validated_data={})


def canonical_json(value: Any) -> str:
    return json.dumps(identity(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """64 hex digits of sha256 over the canonical JSON of the identity of `value`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
