"""A source outside the store: known by its absolute address, and by what its files were when they were read.

`source.json` in a pool's folder has size and time (or etag) of every file. A source that has changed since is told whenever the
pool would be used again, and read again under another edition; the old pool is never used silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from datacomp_core.errors import DataError
from datacomp_core.pool.unique import read_ahead
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import fingerprint

KEPT = "source.json"
NAMED = 1000
SHOWN = 3


def absolute(source: str) -> str:
    """One way to write a source: an absolute path or a url, without a slash at its end."""
    return Folder(source).url if source else ""


def marks(folder: Folder, names: Iterable[str]) -> dict[str, str]:
    """Size and time (or etag) of each file."""
    listed = list(names)
    return dict(zip(listed, read_ahead(folder.mark, listed), strict=True))


def keep(out: Folder, folder: Folder, found: dict[str, str]) -> None:
    """Note what a pool was made from; of many files the marks of all stand in one hash."""
    out.write_json(KEPT, {"at": folder.url, "all": fingerprint(found), "files": found if len(found) <= NAMED else {}})


def changed(data: Folder, found: Callable[[], tuple[Folder, dict[str, str]]]) -> str:
    """What is other at the source than when the pool was made; empty if nothing. A source that is gone has not changed."""
    kept: dict[str, Any] = data.read_json(KEPT) if data.exists(KEPT) else {}
    if not kept:
        return ""
    try:
        folder, now = found()
    except DataError:
        return ""
    if fingerprint(now) == kept["all"]:
        return ""
    before = kept["files"]
    if not before:
        return f"{folder.url} has other files, or others of their sizes or times, than it had"
    kinds = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    told = [
        f"{what}: {', '.join(some[:SHOWN])}{f' and {len(some) - SHOWN} more' if some[SHOWN:] else ''}"
        for what, some in kinds.items()
        if some
    ]
    return f"the files at {folder.url} are others than they were ({'; '.join(told)})"


def refuse(address: str, edition: int, what: str) -> DataError:
    """The error for a pool whose source has changed."""
    return DataError(
        f"{address} was made from a source that has changed since: {what}. Read it again with `edition: {edition + 1}` "
        "(--refresh, or --edition), or bring the old files back."
    )
