"""Detects changes at the source of an adopted pool: new tars, changed metadata. The indexes detect changes of known tars
(`shards.read_index`), and the record detects lost ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError
from datacomp_core.parts import METADATA
from datacomp_core.pool import sources
from datacomp_core.shards import index_names, shard_names
from datacomp_core.store import Folder, content
from datacomp_core.store.content import Marks
from datacomp_core.store.fingerprint import fingerprint

if TYPE_CHECKING:
    from datacomp_core.pool.adopt import AdoptedPoolSpec

_seen: dict[str, Marks] = {}
"""Marks of metadata that this process has read: a file of the same size and time is not read again."""


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
    return str(sources.refuse(pool.address, spec.edition, what))


def changes_of_shards(spec: AdoptedPoolSpec, pool: Pool, made: ShardSet, data: Folder) -> str:
    """Describe new tars at the source since it was adopted; empty if there are none."""
    names, new = _tars(spec)
    return _refused(spec, made.address, names, made.num_shards, new)


def metadata_content(metadata: Folder) -> str:
    """Return a mark of an adopted pool's metadata: for large parquets their size, time and a sample of their bytes."""
    names = [name for name in metadata.files(".parquet") if "/" not in name]
    found = content.marks(metadata, only=names, known=_seen.get(metadata.url), trust="times", whole_bytes=content.TAR_BYTES)
    _seen[metadata.url] = found
    return fingerprint({"content": content.digest(found), "at": metadata.url})


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
    return str(sources.refuse(address, spec.edition, f"{spec.source} now has {now:,} tars instead of {before:,}{named}"))
