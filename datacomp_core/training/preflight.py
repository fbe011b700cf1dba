"""Checks every shard before a training starts: it exists, is complete, and contains what the shard set says. A problem is an
error here, in seconds, and not a warning in a log or an endless loader.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from datacomp_core.artifacts import ShardSet
from datacomp_core.caption_sets import OVERLAY, SUMMARY
from datacomp_core.errors import DataError
from datacomp_core.sample_members import CAPTION, USUAL, names_of
from datacomp_core.shards import INDEX, MEMBERS, Indexed, index_names, index_shard, read_index, shard_names, write_index
from datacomp_core.store import Folder
from datacomp_core.tar import BLOCK, walk
from datacomp_core.training.samples import CaptionDraw, ShardSource

THREADS = 64  # they mostly wait: a set of a million shards in a bucket is two million requests
TABLE = "preflight.parquet"
HEAD_BLOCKS = 8  # a member's header, with what pax may set before it


class PreflightRow(BaseModel):
    """One row of the preflight table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_set: str
    shard: str
    num_samples: int
    num_bytes: int


def preflight(
    shards: ShardSet, folder: Folder, scratch: Path, weight: float, *, tars: Folder | None = None
) -> tuple[ShardSource, list[PreflightRow]]:
    """Open every shard and compare its index and counts. DataError names the shard and what is wrong with it.

    `tars` is where the tars of a view lie; otherwise they are in `folder`.
    """
    return _preflight(shards, folder, scratch, weight) if tars is None else _preflight_view(shards, folder, tars, weight)


def _preflight_view(shards: ShardSet, folder: Folder, tars: Folder, weight: float) -> tuple[ShardSource, list[PreflightRow]]:
    sizes = {name.removesuffix(".tar"): size for name, size in tars.files(".tar").items()}
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda name: _check(shards, tars, folder, name, sizes), index_names(folder)))
    return _settled(shards, folder, tars, folder, weight, rows)


def _preflight(shards: ShardSet, folder: Folder, scratch: Path, weight: float) -> tuple[ShardSource, list[PreflightRow]]:
    names = shard_names(folder)
    there = folder.files()
    indexed = {f"{INDEX}/{name}.parquet" in there for name in names}
    index = folder if indexed == {True} else Folder(scratch) / "indexes" / shards.fingerprint[:16]
    if indexed == {True}:
        lost = sorted(_stem(path) for path in there if path.startswith(f"{INDEX}/") and f"{_stem(path)}.tar" not in there)
        if lost:
            raise DataError(f"{shards.name or folder} has no shard {lost[0]}.tar ({len(lost)} are missing): make it again.")
    sizes = {name: there[f"{name}.tar"] for name in names}

    def check(name: str) -> PreflightRow:
        if indexed != {True}:
            write_index(index, name, _trainable(folder, index_shard(folder, name)))
        return _check(shards, folder, index, name, sizes)

    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(check, names))
    return _settled(shards, folder, folder, index, weight, rows)


def _trainable(folder: Folder, indexed: Indexed) -> pl.DataFrame:
    """The samples of a shard. DataError if it is damaged, or if none of them has a picture and a caption."""
    rows = indexed.whole()
    if rows.height and not any(
        USUAL.picture_of(kind) and any(name.startswith(CAPTION) for name in kind) for kind in indexed.kinds
    ):
        raise DataError(
            f"No sample of shard {folder.at(indexed.shard)}.tar has both an image and a caption; its members are "
            f"{', '.join(indexed.kinds[0])}: adopt the folder with --picture and --caption, which give their names."
        )
    return rows


def _settled(
    shards: ShardSet, folder: Folder, tars: Folder, index: Folder, weight: float, rows: list[PreflightRow]
) -> tuple[ShardSource, list[PreflightRow]]:
    """The source, if the numbers are those of the record."""
    recorded = bool(shards.fingerprint)  # a plain folder has no record to be compared with
    if recorded and len(rows) != shards.num_shards:
        raise DataError(f"{folder} has {len(rows)} shards, but its record says {shards.num_shards}: make it again.")
    total = sum(row.num_samples for row in rows)
    if recorded and total != shards.num_samples:
        raise DataError(f"{folder} has {total} samples, but its record says {shards.num_samples}: make it again.")
    if not total:
        raise DataError(f"{shards.name or folder} has no samples, so there is nothing to train on: choose a wider filter.")
    named = tuple((row.shard, row.num_samples) for row in rows)
    return ShardSource(url=tars.url, index=index.url, weight=weight, shards=named, captions=captions_of(folder)), rows


def captions_of(folder: Folder) -> CaptionDraw | None:
    """Return the caption draw of a shard set; None if training does not need one. DataError if it cannot be read."""
    if not folder.exists(SUMMARY):
        return None
    told = folder.read_json(SUMMARY)
    overlay = bool((folder / OVERLAY).files(".parquet"))
    try:
        draw = CaptionDraw.model_validate({"weights": told.get("draw", {}), "fields": told.get("fields", {}), "overlay": overlay})
    except (ValidationError, AttributeError) as problem:
        raise DataError(f"{folder.at(SUMMARY)} does not say how captions are drawn: reshard it again.") from problem
    return draw if draw.weights or overlay else None


def _check(shards: ShardSet, tars: Folder, index: Folder, name: str, sizes: dict[str, int]) -> PreflightRow:
    rows = read_index(index, name)
    if not rows.is_empty():
        reach = rows.group_by("shard").agg(end=(pl.col("offset") + pl.col("length")).max())
        for tar, end in reach.iter_rows():
            if tar not in sizes:
                raise DataError(f"{shards.name or tars} has no shard {tar}.tar: make it again.")
            if end > sizes[tar]:
                raise DataError(
                    f"Shard {tars.at(tar)}.tar has {sizes[tar]} bytes, but its index reaches to {end}: it is truncated; make "
                    "it again."
                )
        for row in {0, rows.height - 1}:
            _member(tars, rows.row(row, named=True), keyed=not shards.tars)
    size = int(rows["length"].sum()) if shards.tars else sizes[name]
    return PreflightRow(shard_set=shards.name, shard=name, num_samples=rows.height, num_bytes=size)


def _member(tars: Folder, row: dict[str, Any], *, keyed: bool) -> None:
    """The row's sample has to begin where the index says; a view gives keys of its own to what it repeats."""
    name, offset = f"{row['shard']}.tar", int(row["offset"])
    head = tars.read_range(name, offset, offset + min(int(row["length"]), HEAD_BLOCKS * BLOCK))
    found = next(walk(io.BytesIO(head), 1 << 62, whole=False), None)
    key = "" if found is None else names_of(row.get(MEMBERS) or "").split(found.name)[0]
    if not key or (keyed and key != row["key"]):
        raise DataError(
            f"Shard {tars.at(name)} does not contain sample {row['key']} at byte {offset}, contrary to its index: index it again."
        )


def table_of(rows: list[PreflightRow]) -> pl.DataFrame:
    """The preflight table: shard_set, shard, num_samples, num_bytes."""
    return pl.DataFrame([row.model_dump() for row in rows])


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".parquet")
