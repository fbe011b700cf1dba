"""Finds what has changed at the source of an adopted pool: new tars, changed metadata.

Changes of known tars come from their indexes (`shards.check_indexes`), lost ones from the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError
from datacomp_core.parts import METADATA
from datacomp_core.pool import sources
from datacomp_core.shards import check_indexes, index_names, shard_names
from datacomp_core.store import Folder, content_marks
from datacomp_core.store.content_marks import Marks
from datacomp_core.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from datacomp_core.pool.adopt import AdoptedPoolSpec

_seen: dict[str, Marks] = {}
"""Marks of metadata that this process has read: a file of the same size and time is not read again."""

_whole: dict[str, dict[str, tuple[int, str, str]]] = {}
"""Of folders of tars that this process has looked at: the files there, when all tars were those that were indexed."""


def changes_of_metadata(spec: AdoptedPoolSpec, pool: Pool, data: Folder) -> str:
    """Describe what has changed at the source since the pool was adopted; empty if nothing."""
    root = Folder(spec.source)
    if pool.data != root.url:
        names, new = _tars(spec)
        # A retry also adds tars, with their indexes.
        return _refused(spec, pool.address, names, pool.num_parts, new) if new else ""
    metadata = root / METADATA
    if not metadata.exists() or pool.content in (metadata_content(metadata), _by_sizes(metadata)):
        return ""
    what = f"{metadata} has different parquets, or parquets with different content"
    return str(sources.changed_source_error(pool.address, spec.edition, what))


def changes_of_shards(spec: AdoptedPoolSpec, pool: Pool, made: ShardSet, data: Folder) -> str:
    """Return the tars that were added to the source since it was adopted, or written again; empty if there are none."""
    names, new = _tars(spec)
    return _refused(spec, made.address, names, made.num_shards, new) or _written_again(data)


def _written_again(shards: Folder) -> str:
    """Return which tars differ from the indexed ones. A folder that has not changed since the last check is not read again."""
    there = shards.details()
    if not there or _whole.get(shards.url) == there:
        return ""
    indexed = [name for name in index_names(shards) if f"{name}.tar" in there]
    try:
        check_indexes(shards, indexed)
    except DataError as problem:
        return str(problem)
    _whole[shards.url] = there
    return ""


def metadata_content(metadata: Folder) -> str:
    """Return a mark of an adopted pool's metadata: for large parquets their size, time and a sample of their bytes."""
    names = [name for name in metadata.files(".parquet") if "/" not in name]
    found = content_marks.marks(
        metadata, only=names, known=_seen.get(metadata.url), trust="times", whole_bytes=content_marks.TAR_BYTES
    )
    _seen[metadata.url] = found
    return fingerprint({"content": content_marks.digest(found), "at": metadata.url})


def _by_sizes(metadata: Folder) -> str:
    """The same for a pool that an earlier version adopted."""
    sizes = {name: size for name, size in metadata.files(".parquet").items() if "/" not in name}
    return fingerprint({"sizes": sizes, "at": metadata.url})


def _tars(spec: AdoptedPoolSpec) -> tuple[int, list[str]]:
    """Count the tars that are now at the source, and list those without an index. A missing source has not changed."""
    try:
        shards = spec.shards()
        names = shard_names(shards)
    except DataError:
        return 0, []
    return len(names), sorted(set(names) - set(index_names(shards)))


def _refused(spec: AdoptedPoolSpec, address: str, now: int, before: int, new: list[str]) -> str:
    if now <= before:
        return ""
    named = f" (new: {', '.join(f'{name}.tar' for name in new[: sources.SHOWN])})" if new else ""
    return str(
        sources.changed_source_error(address, spec.edition, f"{spec.source} now has {now:,} tars instead of {before:,}{named}")
    )
