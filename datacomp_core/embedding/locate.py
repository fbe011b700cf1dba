"""Where the image of each metadata row is: a join by uid of metadata parts with the index of the shards.

Shards may hold the samples in any order, and a resharded pool does. Both sides are read once and cut by uid into buckets on
the local disk, each small enough to be joined in memory: time and disk grow with the rows, memory does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import uid
from datacomp_core.embedding.assemble import Span
from datacomp_core.errors import DataError
from datacomp_core.parts import scan, scan_tables, store_fault
from datacomp_core.pool_source import PoolSource
from datacomp_core.shards import INDEX, check_indexes, index_names, index_shard, shard_names
from datacomp_core.store.folder import Folder

BUCKET_ROWS = 8_000_000
READ_ROWS = 4_000_000  # rows of the index read at a time
READ_FILES = 512

ENTRY = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("shard", "<u4"), ("offset", "<i8"), ("length", "<i8")])
WANTED = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("part", "<u4"), ("row", "<u4")])
PLACED = np.dtype([("row", "<u4"), ("shard", "<u4"), ("offset", "<i8"), ("length", "<i8")])
Records = npt.NDArray[np.void]


def count_rows(metadata: Folder, parts: list[str]) -> dict[str, int]:
    """Rows of each part, from the parquet footers. DataError names a part that cannot be read."""
    counts: dict[str, int] = {}
    for part in parts:
        try:
            counts[part] = int(scan(metadata, part).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as problem:
            if fault := store_fault(problem, metadata, f"{part}.parquet"):
                raise fault from problem
            raise DataError(f"{metadata.at(part)}.parquet is not readable metadata: {problem}") from problem
    return counts


class Located:
    """The places of the rows of some parts, in files below a folder of this machine. Picklable, for processes of this machine."""

    def __init__(self, folder: Path, rows: dict[str, int], shards: list[str]) -> None:
        self.folder, self.rows, self.shards = folder, rows, shards
        self._numbers = {part: number for number, part in enumerate(rows)}
        self._last: tuple[str, pl.DataFrame] | None = None

    def has_any(self) -> bool:
        """Return whether any row has an image."""
        return any((self.folder / f"placed-{number}").exists() for number in self._numbers.values())

    def of(self, span: Span) -> pl.DataFrame:
        """As `part`, of the part of a span; the last one is kept."""
        if self._last is None or self._last[0] != span.part:
            self._last = span.part, self.part(span.part)
        return self._last[1]

    def part(self, name: str) -> pl.DataFrame:
        """`row`, `shard`, `offset`, `length` of the rows of a part whose image arrived, in order of the rows."""
        found = _read(self.folder / f"placed-{self._numbers[name]}", PLACED)
        found = found[np.argsort(found["row"], kind="stable")]
        columns = {field: pl.Series(found[field]) for field in ("row", "offset", "length")}
        names = pl.Series(self.shards, dtype=pl.String).gather(found["shard"].astype(np.int64))
        return pl.DataFrame({**columns, "shard": names}).select("row", "shard", "offset", "length")


def locate(metadata: Folder, rows: dict[str, int], shards: Folder, into: Path) -> Located:
    """Join the parts `rows` with the index of the shards; the files are in `into`.

    If the shards hold a uid more than once, the first in order is taken: they are copies of one sample. A row whose uid
    occurs twice in the metadata gets the same place as its twin. Shards without an index are walked: their headers are read.
    """
    indexed = index_names(shards)
    names = indexed or shard_names(shards)
    check_indexes(shards, indexed)
    buckets = max(1, -(-sum(rows.values()) // BUCKET_ROWS))
    for entries in _index(shards, names) if indexed else _walked(shards, names):
        _scatter(entries, buckets, into, "index")
    for number, part in enumerate(rows):
        _scatter(_wanted(metadata, part, number), buckets, into, "wanted")
    for bucket in range(buckets):
        _join(into / f"index-{bucket}", into / f"wanted-{bucket}", into)
    return Located(into, rows, names)


def _index(shards: Folder, names: list[str]) -> Iterator[Records]:
    """The index as records, some shards at a time."""
    numbers = pl.DataFrame({"shard": names, "number": range(len(names))}, schema={"shard": pl.String, "number": pl.UInt32})
    for first in range(0, len(names), READ_FILES):
        frame = scan_tables(shards, *(f"{INDEX}/{name}.parquet" for name in names[first : first + READ_FILES]))
        table = frame.select("uid", "shard", "offset", "length").drop_nulls("uid").collect(engine="streaming")
        for piece in table.join(numbers, on="shard", how="left", maintain_order="left").iter_slices(READ_ROWS):
            yield _entries(piece)


def _walked(shards: Folder, names: list[str]) -> Iterator[Records]:
    """The same of tars without an index, one after the other."""
    for number, shard in enumerate(names):
        yield _entries(index_shard(shards, shard).whole().with_columns(number=pl.lit(number, pl.UInt32)))


def _entries(samples: pl.DataFrame) -> Records:
    """A uid without 32 hex digits is in no pool, so no subset contains it."""
    known = samples.filter(pl.col("uid").str.contains("^[0-9a-f]{32}$"))
    return _records(known, ENTRY, {"shard": "number", "offset": "offset", "length": "length"})


def _wanted(metadata: Folder, part: str, number: int) -> Records:
    table = PoolSource(metadata).read(part, ["uid"]).with_row_index("row").with_columns(part=pl.lit(number))
    return _records(table, WANTED, {"part": "part", "row": "row"}, metadata.at(f"{part}.parquet"))


def _records(table: pl.DataFrame, kind: np.dtype[np.void], fields: dict[str, str], where: str = "") -> Records:
    packed = uid.pack(table["uid"], where)
    made = np.empty(table.height, kind)
    made["f0"], made["f1"] = packed["f0"], packed["f1"]
    for field, column in fields.items():
        made[field] = table[column].to_numpy()
    return made


def _scatter(records: Records, buckets: int, into: Path, kind: str) -> None:
    """Append records to the files of their buckets, order kept."""
    bucket = (records["f0"] % np.uint64(buckets)).astype(np.int64)
    order = np.argsort(bucket, kind="stable")
    cuts = np.searchsorted(bucket[order], np.arange(buckets + 1))
    for number in range(buckets):
        _append(into / f"{kind}-{number}", records[order[cuts[number] : cuts[number + 1]]])


def _join(index: Path, wanted: Path, into: Path) -> None:
    """Give the wanted rows of a bucket their places, and remove what was joined."""
    entries, asked = _read(index, ENTRY), _read(wanted, WANTED)
    order = np.lexsort((entries["offset"], entries["shard"], entries["f1"], entries["f0"]))
    entries = entries[order]
    first = np.ones(len(entries), np.bool_)
    first[1:] = (entries["f0"][1:] != entries["f0"][:-1]) | (entries["f1"][1:] != entries["f1"][:-1])
    places = pl.DataFrame({name: entries[name][first] for name in ENTRY.names or ()})
    rows = pl.DataFrame({name: asked[name] for name in WANTED.names or ()})
    found = rows.join(places, on=["f0", "f1"], how="inner").sort("part", "row")
    for (part,), table in found.partition_by("part", as_dict=True, maintain_order=True).items():
        made = np.empty(table.height, PLACED)
        for name in PLACED.names or ():
            made[name] = table[name].to_numpy()
        _append(into / f"placed-{part}", made)
    index.unlink(missing_ok=True)
    wanted.unlink(missing_ok=True)


def _append(path: Path, records: Records) -> None:
    if len(records):
        with path.open("ab") as file:
            file.write(records.tobytes())


def _read(path: Path, kind: np.dtype[np.void]) -> Records:
    return np.fromfile(path, kind) if path.exists() else np.empty(0, kind)
