"""The join of captions with a pool by a key, in any order and number: every caption finds every row that has its key.

As in `joining`, both sides are sorted into buckets on the local disk by 128 bits of the key, and one bucket after the other is
joined; what matched goes to buckets of neighbouring parts. Memory is bounded by one bucket. The captions of a row stand in the
order in which the tables have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import uid
from datacomp_core.buckets import LocalBuckets
from datacomp_core.errors import DataError
from datacomp_core.joining import bucket_of

ROWS_A_BUCKET = 1_000_000
BYTES_A_BUCKET = 256 << 20
BUFFER_BYTES = 128 << 20
KEYS = np.dtype([("high", "u8"), ("low", "u8"), ("part", "i4"), ("row", "i8")])
INDEX = np.dtype([("high", "u8"), ("low", "u8"), ("uid_high", "u8"), ("uid_low", "u8")])


class TextBuckets:
    """Buckets of rows with texts, each a file of Arrow streams. Rows wait in memory until they are worth a write."""

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num = folder, num
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, bucket: npt.NDArray[np.int64], rows: pl.DataFrame) -> None:
        """Append rows to their buckets (n,)."""
        if rows.height:
            self._waiting.append(rows.with_columns(bucket=pl.Series(bucket.astype(np.int32))))
            self._bytes += int(rows.estimated_size())
        if self._bytes > BUFFER_BYTES:
            self._write()

    def read(self, number: int) -> pl.DataFrame:
        """Return all rows of a bucket, in the order in which they were added; a frame without columns if it is empty."""
        import pyarrow as pa

        self._write()
        path = self.folder / f"{number:06d}.arrow"
        pieces: list[pl.DataFrame] = []
        if path.exists():
            size = path.stat().st_size
            with path.open("rb") as file:
                while file.tell() < size:
                    found: Any = pl.from_arrow(pa.ipc.open_stream(file).read_all())
                    pieces.append(found)
        return pl.concat(pieces, rechunk=False) if pieces else pl.DataFrame()

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = pl.concat(self._waiting).sort("bucket", maintain_order=True)
        self._waiting, self._bytes = [], 0
        for (number,), piece in rows.partition_by("bucket", as_dict=True, include_key=False, maintain_order=True).items():
            with (self.folder / f"{number:06d}.arrow").open("ab") as file:
                piece.write_ipc_stream(file, compat_level=pl.CompatLevel.oldest())


@dataclass
class Joined:
    """The matched captions by group of neighbouring parts, and the counts so far."""

    names: tuple[str, ...]
    group_of: dict[str, int]
    found: TextBuckets
    counts: Counter[str] = field(default_factory=Counter[str])
    sources: set[str] = field(default_factory=set[str])

    def parts(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """For each part that has any, its captions: row, order, source, text, score, in the order of the rows."""
        for group in dict.fromkeys(self.group_of.values()):
            rows = self.found.read(group)
            if not rows.height:
                continue
            by_part = rows.sort("part", "row", "order").partition_by("part", as_dict=True, include_key=False, maintain_order=True)
            for (part,), captions in by_part.items():
                yield self.names[int(part)], captions


def join(
    sizes: Mapping[str, int],
    pool: Iterable[tuple[str, uid.Uids, npt.NDArray[np.int64]]],
    table: Iterable[tuple[uid.Uids, pl.DataFrame]],
    local: Path,
    num_bytes: int,
) -> Joined:
    """Join `table`, pieces of (keys (n,), rows with order, source, text, score), with `pool`: (part, keys (m,), rows (m,)).

    `sizes` are the rows of each part; `num_bytes` is about the size of the table.
    """
    num = buckets_for(sum(sizes.values()), num_bytes)
    texts, keys = TextBuckets(local / "texts", num), LocalBuckets(local / "keys", num, KEYS)
    for found, rows in table:
        texts.add(bucket_of(found, num), rows.with_columns(high=pl.Series(found["f0"].copy()), low=pl.Series(found["f1"].copy())))
    names = tuple(sizes)
    place = {name: number for number, name in enumerate(names)}
    for part, found, at in pool:
        columns = {"high": found["f0"], "low": found["f1"], "part": np.full(len(found), place[part], np.int32), "row": at}
        keys.add("pool", bucket_of(found, num), columns)
    groups = _groups(sizes, num_bytes)
    group_of_place = np.array([groups[name] for name in names], np.int64)
    made = Joined(names, groups, TextBuckets(local / "joined", max(groups.values(), default=0) + 1))
    for number in range(num):
        rows = texts.read(number)
        if rows.height:
            found, matched = _matched(rows, keys.read(number))
            made.counts.update(matched=matched, unmatched=rows.height - matched)
            made.sources.update(found["source"].unique())
            made.found.add(group_of_place[found["part"].to_numpy()], found)
    return made


def _matched(rows: pl.DataFrame, pool: npt.NDArray[np.void]) -> tuple[pl.DataFrame, int]:
    """The captions of every row that has their key, and how many of them have such a row."""
    asked = pl.DataFrame({name: pool[name].copy() for name in ("high", "low", "part", "row")})
    found = rows.join(asked, on=["high", "low"], how="inner").drop("high", "low")
    return found, int(found["order"].n_unique())


def translate_uids(
    table: Iterable[tuple[uid.Uids, pl.DataFrame]],
    index: Iterable[tuple[uid.Uids, uid.Uids]],
    local: Path,
    num_rows: int,
    num_bytes: int,
    counts: Counter[str],
) -> Iterator[tuple[uid.Uids, pl.DataFrame]]:
    """Captions by img2dataset's keys as captions by uid, through an index of `(key, uid)`. What has no uid is unmatched."""
    num = buckets_for(num_rows, num_bytes)
    texts, known = TextBuckets(local / "by_key", num), LocalBuckets(local / "index", num, INDEX)
    for found, rows in table:
        texts.add(bucket_of(found, num), rows.with_columns(high=pl.Series(found["f0"].copy()), low=pl.Series(found["f1"].copy())))
    for keys, uids in index:
        columns = {"high": keys["f0"], "low": keys["f1"], "uid_high": uids["f0"], "uid_low": uids["f1"]}
        known.add("index", bucket_of(keys, num), columns)
    for number in range(num):
        rows = texts.read(number)
        if not rows.height:
            continue
        there = known.read(number)
        entries = pl.DataFrame({name: there[name].copy() for name in INDEX.names or ()}).unique(maintain_order=True)
        found = rows.join(entries, on=["high", "low"], how="inner", maintain_order="left")
        if shared := int(found.filter(found["order"].is_duplicated())["order"].n_unique()):
            raise DataError(
                f"{shared:,} captions have a key that several samples of the shards share: it is not known whose they are, so "
                "join them by uid, url or sha256 instead."
            )
        counts["unmatched"] += rows.height - found.height
        uids = np.empty(found.height, uid.DTYPE)
        uids["f0"], uids["f1"] = found["uid_high"].to_numpy(), found["uid_low"].to_numpy()
        yield uids, found.drop("high", "low", "uid_high", "uid_low")


def buckets_for(num_rows: int, num_bytes: int) -> int:
    return max(1, -(-num_rows // ROWS_A_BUCKET), -(-num_bytes // BYTES_A_BUCKET))


def _groups(sizes: Mapping[str, int], num_bytes: int) -> dict[str, int]:
    """Which group each part is of: neighbours whose captions fit into memory together."""
    total = max(1, sum(sizes.values()))
    most = max(1, min(ROWS_A_BUCKET, total * BYTES_A_BUCKET // max(1, num_bytes)))
    group, rows, made = 0, 0, dict[str, int]()
    for name, number in sizes.items():
        if rows and rows + number > most:
            group, rows = group + 1, 0
        made[name], rows = group, rows + number
    return made
