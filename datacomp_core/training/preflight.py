"""The look at every shard before a training starts: there, whole, and holding what the shard set says.

Whatever is wrong is an error here, in seconds, and not a warning in a log that nobody reads (or a loader that spins).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError
from datacomp_core.shards import INDEX, index_shard, read_index, shard_names, write_index
from datacomp_core.store import Folder
from datacomp_core.tar import BLOCK, Member, walk
from datacomp_core.training.samples import Source

THREADS = 16


class Checked(BaseModel):
    """One row of the preflight table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_set: str
    shard: str
    num_samples: int
    num_bytes: int


def preflight(shards: ShardSet, folder: Folder, scratch: Path, weight: float) -> tuple[Source, list[Checked]]:
    """Open every shard and compare its index and counts. DataError names the shard and what is wrong with it."""
    names = shard_names(folder)
    there = folder.files()
    indexed = {f"{INDEX}/{name}.parquet" in there for name in names}
    index = folder if indexed == {True} else Folder(scratch) / "indexes" / shards.fingerprint[:16]
    if indexed == {True}:
        lost = sorted(_stem(path) for path in there if path.startswith(f"{INDEX}/") and f"{_stem(path)}.tar" not in there)
        if lost:
            raise DataError(f"{shards.name or folder} has no shard {lost[0]}.tar ({len(lost)} are missing): make it again.")
    if len(names) != shards.num_shards:
        raise DataError(f"{folder} has {len(names)} shards, and its record says {shards.num_shards}: make it again.")

    def check(name: str) -> Checked:
        if indexed != {True}:
            write_index(index, name, index_shard(folder, name).whole())
        return _check(shards, folder, index, name, there[f"{name}.tar"])

    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(check, names))
    total = sum(row.num_samples for row in rows)
    if total != shards.num_samples:
        raise DataError(f"{folder} holds {total} samples, and its record says {shards.num_samples}: make it again.")
    if not total:
        raise DataError(f"{shards.name or folder} has no samples, so there is nothing to train on: choose a wider filter.")
    source = Source(url=folder.url, index=index.url, weight=weight, shards=tuple((row.shard, row.num_samples) for row in rows))
    return source, rows


def _check(shards: ShardSet, folder: Folder, index: Folder, name: str, size: int) -> Checked:
    rows = read_index(index, name)
    where = folder.at(f"{name}.tar")
    if not rows.is_empty():
        ends = int((rows["offset"] + rows["length"]).max())  # pyright: ignore[reportArgumentType]
        if ends > size:
            raise DataError(f"Shard {where} has {size} bytes and its index reaches to {ends}: it is truncated; make it again.")
        _first_member(folder, name, int(rows["offset"][0]))
    return Checked(shard_set=shards.name, shard=name, num_samples=rows.height, num_bytes=size)


def _first_member(folder: Folder, name: str, offset: int) -> Member:
    import io

    head = folder.read_range(f"{name}.tar", offset, offset + BLOCK)
    found = next(walk(io.BytesIO(head), 1 << 62, whole=False), None)
    if found is None:
        raise DataError(f"Shard {folder.at(f'{name}.tar')} does not begin where its index says: index it again.")
    return found


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".parquet")
