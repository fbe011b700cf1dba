"""Marks files, to detect whether a file is still the one that something was made from.

Files up to `WHOLE_BYTES` are hashed whole. Larger ones are identified by size, time and a hash over blocks spread over the
file, and objects in a bucket by the server's ETag. `trust="times"` reuses an earlier mark of the same size and time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, Literal, NamedTuple

from datacomp_core.errors import DataError
from datacomp_core.store.folder import Folder

WHOLE_BYTES = 64 << 20
BLOCKS, BLOCK_BYTES = 16, 64 << 10
THREADS = 8
SHOWN = 3
FEW = 64
"""Up to this number of files, each is requested by name; beyond, the folder is listed."""
TAR_BYTES = 4 << 20
"""`whole_bytes` of tars where few of their bytes are read."""

Trust = Literal["content", "times"]


class ContentMark(NamedTuple):
    """Of one file: size in bytes, when it was changed, and a hash. Two marks with one `content` are of one content."""

    size: int
    time: str
    content: str


Marks = dict[str, ContentMark]


def marks(
    folder: Folder,
    *,
    suffix: str = "",
    only: Iterable[str] | None = None,
    known: Mapping[str, ContentMark] | None = None,
    trust: Trust = "content",
    whole_bytes: int = WHOLE_BYTES,
) -> Marks:
    """The marks of the files below a folder (of those in `only`, if it is given), by relative path in sorted order.

    `known` are earlier marks of the same folder, for `trust="times"`. A file of `only` that is not there has no mark. A file
    of more than `whole_bytes` is not hashed whole.
    """
    listed = _details(folder, suffix, None if only is None else sorted(set(only)))
    names = list(listed)
    before = known or {}

    def one(name: str) -> ContentMark:
        size, time, tag = listed[name]
        found = before.get(name)
        if trust == "times" and time and found is not None and (found.size, found.time) == (size, time):
            return found
        return ContentMark(size, time, _content(folder, name, size, time, tag, whole_bytes))

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def mark(url: str, *, known: ContentMark | None = None, trust: Trust = "content") -> ContentMark:
    """The mark of one file. DataError if it is not there."""
    place, _, name = url.rpartition("/")
    folder = Folder(place or ".")
    found = marks(folder, only=[name], known={name: known} if known else None, trust=trust)
    if name not in found:
        raise DataError(f"{url} is not there.")
    return found[name]


def digest(found: Mapping[str, ContentMark]) -> str:
    """64 hex digits over the names and contents of files."""
    lines = "".join(f"{name}\0{found[name].size}\0{found[name].content}\n" for name in sorted(found))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def describe_changes(before: Mapping[str, ContentMark], now: Mapping[str, ContentMark]) -> str:
    """Return the changes of files in words: `a.parquet has changed, b.parquet is gone`. Empty if none has changed."""
    told = [f"{name} is gone" for name in before if name not in now]
    told += [f"{name} is new" for name in now if name not in before]
    told += [
        f"{name} has changed"
        for name in now
        if name in before and (before[name].size, before[name].content) != (now[name].size, now[name].content)
    ]
    more = f" and {len(told) - SHOWN:,} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def marks_as_json(found: Mapping[str, ContentMark]) -> dict[str, list[Any]]:
    """Marks as plain JSON."""
    return {name: list(one) for name, one in found.items()}


def read_marks(given: Any) -> Marks:
    """Marks from plain JSON; none if they are not of that form."""
    try:
        return {str(name): ContentMark(int(size), str(time), str(content)) for name, (size, time, content) in given.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def versions(*packages: str) -> dict[str, str]:
    """The versions of installed packages, by name; those that are not installed are left out."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hash_json(value: Any) -> str:
    """A short hash over plain JSON, to record what a setting was without all of it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _details(folder: Folder, suffix: str, only: list[str] | None) -> dict[str, tuple[int, str, str]]:
    """Return size, time and ETag of the files; few files are requested one by one, so that no large folder is listed for one."""
    if only is not None and len(only) <= FEW:
        found = {name: folder.detail(name) for name in only if name.endswith(suffix)}
        return {name: one for name, one in found.items() if one is not None}
    listed, wanted = folder.details(suffix), None if only is None else set(only)
    return {name: one for name, one in listed.items() if wanted is None or name in wanted}


def _content(folder: Folder, name: str, size: int, time: str, tag: str, whole_bytes: int) -> str:
    if tag:
        return f"etag:{tag}"
    if size <= whole_bytes:
        with folder.open(name) as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # pyright: ignore[reportArgumentType]
    hashed = hashlib.sha256(f"{size} {time}".encode())
    for number in range(BLOCKS):
        start = number * (size - BLOCK_BYTES) // (BLOCKS - 1)
        hashed.update(folder.read_range(name, start, start + BLOCK_BYTES))
    return f"sampled:{hashed.hexdigest()}"
