"""Tracks a source outside the store by its absolute address and by the content of its files when they were read.
`source.parquet` in a pool's folder has size, time and content (a hash, or the bucket's ETag) of every file. If a source has
changed, every reuse of the pool reports it, and it can be read again under another edition; the old pool is never silently
reused. Only the content decides: files that were copied or touched are hashed again, and are the same if their bytes are.
"""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.store import Folder, content_marks
from datacomp_core.store.content_marks import ContentMark, Marks

KEPT, FILES = "source.json", "source.parquet"
SCHEMA = pl.Schema({"file": pl.String, "size": pl.Int64, "time": pl.String, "content": pl.String})
SHOWN = 3
REMEMBERED = 16
_seen: OrderedDict[str, Marks] = OrderedDict()
"""For pools that this process has compared: the marks with current times, so that a touched file is hashed once."""


def absolute(source: str) -> str:
    """Return the canonical form of a source: an absolute path or a url, without a final slash."""
    return Folder(source).url if source else ""


def marks(folder: Folder, names: Iterable[str], known: Marks | None = None) -> Marks:
    """Return size, time and content of each file. A file with the size and time in `known` is not read."""
    return content_marks.marks(folder, only=names, known=known, trust="times", whole_bytes=sys.maxsize)


def keep(out: Folder, folder: Folder, found: Marks) -> None:
    """Record what a pool was made from."""
    buffer = io.BytesIO()
    pl.DataFrame([(name, *mark) for name, mark in found.items()], schema=SCHEMA, orient="row").write_parquet(buffer)
    out.write(FILES, buffer.getvalue())
    out.write_json(KEPT, {"at": folder.url, "files": len(found)})


def describe_change(data: Folder, found: Callable[[Marks], tuple[Folder, Marks]]) -> str:
    """Describe what has changed at the source since the pool was made; empty if nothing. A missing source has not changed.
    `found` returns the current marks; it receives the known marks, and does not read files of the same size and time again.
    """
    if not data.exists(FILES):
        return "" if not data.exists(KEPT) else "the marks of its files are of an earlier version, and cannot be compared"
    rows = pl.read_parquet(io.BytesIO(data.read(FILES))).iter_rows()
    before = {name: ContentMark(size, time, hashed) for name, size, time, hashed in rows}
    try:
        folder, now = found(_seen.get(data.url, before))
    except DataError:
        return ""
    kinds = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(
            name
            for name in now.keys() & before.keys()
            if (now[name].size, now[name].content) != (before[name].size, before[name].content)
        ),
    }
    told = [
        f"{what}: {', '.join(some[:SHOWN])}{f' and {len(some) - SHOWN:,} more' if some[SHOWN:] else ''}"
        for what, some in kinds.items()
        if some
    ]
    if told:
        return f"the files at {folder.url} have changed ({'; '.join(told)})"
    _seen[data.url] = now
    while len(_seen) > REMEMBERED:
        _seen.popitem(last=False)
    return ""


def changed_source_error(address: str, edition: int, what: str) -> DataError:
    """Return the error for a pool whose source has changed."""
    return DataError(
        f"{address} was made from a source that has changed since: {what}. Read it again with "
        f"--refresh, on the command that made it (in a form: `edition: {edition + 1}`), or bring the old files back."
    )
