"""A sample of a pool's rows with what several subsets made of each: small enough for memory at any scale, and fair.

Uids are hashes, so the rows whose uid is below a bound are a random sample of the pool, and in each sorted subset file
they are one stretch at the beginning. A limited number of parts of the metadata is read, spread evenly over the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from datacomp_core import parts
from datacomp_core.artifacts import Embeddings, Pool
from datacomp_core.leaderboard.entries.data_check import spread
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.provenance import data_of, of_kind
from datacomp_core.store import Folder, Store
from datacomp_core.subset_files import SubsetFile, rows_below

MAX_ROWS = 200_000
MAX_PARTS = 256
COLUMNS = ("uid", "text", "url", "original_width", "original_height")
HEIGHT = 1 << 64


@dataclass(frozen=True)
class SubsetSample:
    """`rows` has COLUMNS, the pool's score columns, and one column a subset, `times:<name>`: how often it chose the row."""

    rows: pl.DataFrame
    subsets: tuple[str, ...]
    scores: tuple[str, ...]
    num_pool: int

    def chosen(self, subset: str) -> pl.DataFrame:
        """The sampled rows that a subset has."""
        return self.rows.filter(pl.col(f"times:{subset}") > 0)

    def only(self, subset: str, other: str) -> pl.DataFrame:
        """The sampled rows that one subset has and the other lacks."""
        return self.rows.filter((pl.col(f"times:{subset}") > 0) & (pl.col(f"times:{other}") == 0))


def draw(store: Store, entries: Mapping[str, Entry], *, max_rows: int = MAX_ROWS) -> SubsetSample | None:
    """Sample the pools of some entries (by the name each goes by). None if no pool of theirs has its metadata any more."""
    pools = _pools(store, entries)
    total = sum(rows for _, rows, _ in pools)
    if not total:
        return None
    share = sum(_read_share(folder) for folder, _, _ in pools) / len(pools)
    part = min(1.0, max_rows / (total * share))
    high = None if part >= 1 else int(part * HEIGHT)
    frames = [_rows(folder, scores, high) for folder, _, scores in pools]
    rows = pl.concat(frames, how="diagonal").unique("uid", keep="first", maintain_order=True).sort("uid")
    for name, entry in entries.items():
        rows = _counted(rows, name, data_of(store, entry.inputs["subset"]), high)
    known = tuple(name for name in rows.columns if name not in COLUMNS and not name.startswith("times:"))
    return SubsetSample(rows, tuple(entries), known, total)


def _pools(store: Store, entries: Mapping[str, Entry]) -> list[tuple[Folder, int, list[Folder]]]:
    """Each pool once: its metadata, its number of rows, and the folders of scores that some entry's filter read."""
    found: dict[str, tuple[Folder, int, list[Folder]]] = {}
    for entry in entries.values():
        for link in of_kind(entry.chain, Pool.kind):
            record, folder = store.record(link.address), data_of(store, link.address)
            if record is not None and folder is not None and folder.exists(parts.METADATA):
                found.setdefault(link.address, (folder / parts.METADATA, int(record.artifact["num_samples"]), []))
    for entry in entries.values():
        for link in of_kind(entry.chain, Embeddings.kind):
            folder = data_of(store, link.address)
            for address in {a for given in link.inputs.values() for a in given} & found.keys():
                if folder is not None and (folder / parts.SCORES) not in found[address][2]:
                    found[address][2].append(folder / parts.SCORES)
    return list(found.values())


def _read_share(metadata: Folder) -> float:
    names = parts.part_names(metadata)
    return min(1.0, MAX_PARTS / len(names))


def _rows(metadata: Folder, scores: Sequence[Folder], high: int | None) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    for part in spread(parts.part_names(metadata), MAX_PARTS):
        whole = [folder for folder in scores if folder.exists(f"{part}.parquet")]
        frame = parts.scan(metadata, part, whole)
        names = frame.collect_schema().names()
        wanted = [pl.col(name) for name in COLUMNS if name in names]
        frame = frame.select(*wanted, pl.col("^.*_score$").cast(pl.Float64))
        frames.append((frame if high is None else frame.filter(pl.col("uid") < f"{high:016x}")).collect())
    return pl.concat(frames, how="diagonal")


def _counted(rows: pl.DataFrame, name: str, subset: Folder | None, high: int | None) -> pl.DataFrame:
    times = f"times:{name}"
    if subset is None:
        return rows.with_columns(pl.lit(0, pl.UInt32).alias(times))
    from datacomp_core.uid import unpack

    counted = pl.DataFrame({"uid": unpack(rows_below(SubsetFile(subset), high))}).group_by("uid").len(times)
    return rows.join(counted, on="uid", how="left", maintain_order="left").with_columns(pl.col(times).fill_null(0))
