"""Joins rows of a pool with outside tables by a key, for any order, files or sharding of either side. Both sides are
partitioned into buckets on the local disk by 128 bits of the key (the uid itself; for other text its blake2b). Buckets are
joined one by one, so only one bucket is in memory. Every row is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import shards, uid
from datacomp_core.buckets import LocalBuckets
from datacomp_core.errors import DataError
from datacomp_core.store import Folder

ROWS_A_BUCKET = 4_000_000
LEAST_BYTES_A_ROW = 8
"""Of a table on disk: half of what a random uid takes, which no format makes smaller."""
Values = npt.NDArray[np.float64]
Repeated = Literal["refuse", "first", "mean"]
Key = Literal["uid", "key", "url"]


@dataclass
class JoinCounts:
    """Rows of the pool with and without a value; keys of the table that repeat, disagree, or are not in the pool."""

    matched: int = 0
    missing: int = 0
    repeated: int = 0
    disagreeing: int = 0
    unknown: int = 0

    def add(self, other: JoinCounts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def keys_of(values: pl.Series, key: Key, where: str, first_row: int = 1) -> uid.Uids:
    """Return 128 bits per value. DataError for an invalid uid or a missing key."""
    if key == "uid":
        from datacomp_core.uid_values import parsed

        return parsed(values.cast(pl.String), where, first_row)
    if values.null_count():
        raise DataError(f"{where}: the {key} is missing in {values.null_count():,} rows.")
    text = values.cast(pl.String)
    return hash_texts((plain_keys(text) if key == "key" else text).to_list())


def sample_keys(folder: Folder) -> Iterator[tuple[uid.Uids, uid.Uids]]:
    """Keys and uids of all samples: by the index of the shards, or by a walk over the tars where they have none."""
    for shard in shards.sample_shards(folder):
        rows = shards.index_of(folder, shard).drop_nulls(["uid", "key"])
        yield keys_of(rows["key"], "key", shard), uid.pack(rows["uid"].cast(pl.String))


def plain_keys(keys: pl.Series) -> pl.Series:
    """img2dataset's keys are digits with leading zeros, which a table loses that stores them as numbers: without them."""
    number = keys.str.contains("^[0-9]+$").fill_null(value=False)
    return keys.zip_with(~number, keys.str.strip_chars_start("0"))


def hash_texts(text: Iterable[str]) -> uid.Uids:
    """Return 128 bits of each text: its blake2b."""
    data = b"".join(hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=16).digest() for one in text)
    return np.frombuffer(data, np.uint64).view(uid.DTYPE)


class Join:
    """One join. Feed the table and the pool, `run`, then read the values of each part."""

    def __init__(
        self,
        local: Path,
        names: Sequence[str],
        num_columns: int,
        num_rows: int,
        repeated: Repeated = "refuse",
        table: str = "the table",
        advice: str = "choose `first` or `mean` for `repeated`",
        table_bytes: int = 0,
    ) -> None:
        """`table` and `advice`: what an error says of keys that repeat with other values. `table_bytes`: of its files."""
        num = num_buckets(num_rows, table_bytes)
        wide: Any = ("value", "f8", (num_columns,))
        self.names, self.width, self.policy, self.example = list(names), num_columns, repeated, ""
        self.table = LocalBuckets(local / "table", num, np.dtype([("high", "u8"), ("low", "u8"), ("order", "i8"), wide]))
        self.pool = LocalBuckets(local / "pool", num, np.dtype([("high", "u8"), ("low", "u8"), ("part", "i4"), ("row", "i8")]))
        self.out = LocalBuckets(local / "joined", len(names), np.dtype([("row", "i8"), wide]))
        self.seen, self.sizes = 0, dict.fromkeys(names, 0)
        self.shown, self.advice = table, advice

    def add_table(self, keys: uid.Uids, values: Values) -> None:
        """Rows of the table in their order: keys (n,), values (n, columns)."""
        order = np.arange(self.seen, self.seen + len(keys))
        self.seen += len(keys)
        columns = {"high": keys["f0"], "low": keys["f1"], "order": order, "value": values.reshape(len(keys), self.width)}
        self.table.add("table", bucket_of(keys, self.table.num), columns)

    def add_part(self, part: str, keys: uid.Uids) -> None:
        """The keys of a part's rows, in their order."""
        place, rows = self.names.index(part), np.arange(len(keys))
        self.sizes[part] = len(keys)
        columns = {"high": keys["f0"], "low": keys["f1"], "part": np.full(len(keys), place, np.int32), "row": rows}
        self.pool.add("pool", bucket_of(keys, self.pool.num), columns)

    def run(self) -> JoinCounts:
        """Join all buckets. DataError if keys repeat with different values and this is not allowed."""
        counts = JoinCounts()
        for number in range(self.table.num):
            counts.add(self._one(number))
        if counts.disagreeing and self.policy == "refuse":
            raise DataError(
                f"{self.shown} repeats keys with different values (number of such keys: {counts.disagreeing:,}; one is "
                f"{self.example}): {self.advice}."
            )
        return counts

    def values(self, part: str) -> Values:
        """Return the values of a part's rows, (rows, columns); NaN where the table has none."""
        made = np.full((self.sizes[part], self.width), np.nan)
        found = self.out.read(self.names.index(part))
        made[found["row"]] = found["value"]
        return made

    def _one(self, number: int) -> JoinCounts:
        table, pool = self.table.read(number), self.pool.read(number)
        table = table[np.lexsort((table["order"], table["low"], table["high"]))]
        starts = _starts(table)
        repeats = len(table) - len(starts)
        disagree = self._disagreeing(table, starts)
        values = table["value"][starts]
        if self.policy == "mean" and repeats:
            values = _means(table["value"], starts)
        known = _frame(table[starts], entry=np.arange(len(starts)))
        asked = _frame(pool, place=np.arange(len(pool)))
        hits = asked.join(known, on=["high", "low"], how="inner")
        rows, entries = pool[hits["place"].to_numpy()], hits["entry"].to_numpy()
        self.out.add("joined", rows["part"].astype(np.int64), {"row": rows["row"], "value": values[entries]})
        unknown = len(starts) - len(np.unique(entries))
        return JoinCounts(len(rows), len(pool) - len(rows), repeats, disagree, unknown)

    def _disagreeing(self, table: npt.NDArray[np.void], starts: npt.NDArray[np.int64]) -> int:
        if len(starts) == len(table):
            return 0
        first = np.repeat(starts, np.diff([*starts, len(table)]))
        mine, theirs = table["value"], table["value"][first]
        other = ~((mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all(1)
        bad = np.unique(first[other])
        if len(bad) and not self.example:
            keys = np.empty(1, uid.DTYPE)
            keys["f0"], keys["f1"] = table["high"][bad[:1]], table["low"][bad[:1]]
            self.example = f"{uid.unpack(keys)[0]} ({', '.join(f'{value:g}' for value in table['value'][bad[0]])} first)"
        return len(bad)


def num_buckets(num_rows: int, table_bytes: int = 0) -> int:
    """Buckets that fit in memory, for `num_rows` of the pool and a table that may be of a much larger pool."""
    return max(1, -(-max(num_rows, table_bytes // LEAST_BYTES_A_ROW) // ROWS_A_BUCKET))


def bucket_of(keys: uid.Uids, num: int) -> npt.NDArray[np.int64]:
    """The bucket of each key (n,), of `num`."""
    mixed = (keys["f0"] ^ (keys["f1"] * np.uint64(0x9E3779B97F4A7C15))) >> np.uint64(16)
    return (mixed % np.uint64(num)).astype(np.int64)


def _starts(table: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Where each key of a sorted table begins."""
    if not len(table):
        return np.empty(0, np.int64)
    other = (table["high"][1:] != table["high"][:-1]) | (table["low"][1:] != table["low"][:-1])
    return np.concatenate([[0], np.flatnonzero(other) + 1])


def _means(values: Values, starts: npt.NDArray[np.int64]) -> Values:
    """The mean of the rows of each key, column by column, over what is not missing."""
    known = ~np.isnan(values)
    numbers = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    sums = np.add.reduceat(np.where(known, values, 0), starts, axis=0)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)


def _frame(rows: npt.NDArray[np.void], **more: npt.NDArray[np.int64]) -> pl.DataFrame:
    return pl.DataFrame({"high": rows["high"].copy(), "low": rows["low"].copy(), **more})


def by_uid(pool: Iterable[tuple[str, uid.Uids]], table: Iterable[tuple[uid.Uids, Values]], join: Join) -> tuple[Join, JoinCounts]:
    """Feed both sides and run."""
    for keys, values in table:
        join.add_table(keys, values)
    for part, keys in pool:
        join.add_part(part, keys)
    return join, join.run()


def translate_uids(
    pieces: Iterable[tuple[uid.Uids, Values]],
    index: Iterable[tuple[uid.Uids, uid.Uids]],
    local: Path,
    num_rows: int,
    width: int,
    counts: JoinCounts,
    table_bytes: int = 0,
) -> Iterator[tuple[uid.Uids, Values]]:
    """Convert table rows keyed by img2dataset's key to rows by uid, through an index of `(key, uid)`; the rows of one key stay in
    their order. Keys that the index does not have are dropped, and added to the unknown ones of `counts`."""
    num = num_buckets(num_rows, table_bytes)
    wide: Any = ("value", "f8", (width,))
    table = LocalBuckets(local / "by_key", num, np.dtype([("high", "u8"), ("low", "u8"), wide]))
    known = LocalBuckets(local / "index", num, np.dtype([("high", "u8"), ("low", "u8"), ("uid_high", "u8"), ("uid_low", "u8")]))
    for keys, values in pieces:
        spread = (keys["f0"] % np.uint64(num)).astype(np.int64)
        table.add("table", spread, {"high": keys["f0"], "low": keys["f1"], "value": values.reshape(len(keys), width)})
    for keys, uids in index:
        columns = {"high": keys["f0"], "low": keys["f1"], "uid_high": uids["f0"], "uid_low": uids["f1"]}
        known.add("index", (keys["f0"] % np.uint64(num)).astype(np.int64), columns)
    for number in range(num):
        rows, there = table.read(number), known.read(number)
        asked, entries = _frame(rows, place=np.arange(len(rows))), _frame(there, entry=np.arange(len(there)))
        hits = asked.join(entries, on=["high", "low"], how="inner", maintain_order="left")
        counts.unknown += asked.join(entries, on=["high", "low"], how="anti").n_unique(["high", "low"])
        found = there[hits["entry"].to_numpy()]
        uids = np.empty(len(found), uid.DTYPE)
        uids["f0"], uids["f1"] = found["uid_high"], found["uid_low"]
        yield uids, rows["value"][hits["place"].to_numpy()]
