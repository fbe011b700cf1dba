"""A uniform sample of a pool on this machine's disk: every column of its rows, and their features.

A row belongs to it if the hash of its uid is below a bound, so the sample is the same on every machine, and a smaller one is
part of a larger one. Parts are read one by one, in processes; what an interrupted run has drawn is not drawn again. Memory is
bounded by one part for each worker.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.fasttext.model import language_model
from datacomp_core.parallel import process_map
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.sampling_key import HIGHEST, is_sampled, last_key
from datacomp_core.store.local import replacing

DONE = "sample.json"
ROWS = "rows.arrow"
PARTS = "parts"
WORD = r"[^\s\x1c-\x1f]+"
HOST = r"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:]+)"
DERIVED = ("words", "language", "host", "aspect_ratio")
OURS = ("part", "row", *DERIVED)
OWN = "pool_"
"""Begins the name of a pool's own column whose name is one of OURS."""
Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class PoolSample:
    """The files of a sample in `folder`. `last` is the highest sampling key that belongs to it (see `sampling_key`)."""

    folder: Path
    num_pool: int
    num_rows: int
    last: int
    parts: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole pool."""
        return self.num_rows == self.num_pool

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Mapped from disk: `part` (its number), `row` (in the part), the columns of the pool and DERIVED. A column of the pool
        with a name of OURS has OWN before it."""
        return map_arrow_file(self.folder / ROWS)

    @property
    def pool_rows(self) -> pl.DataFrame:
        """The columns of the pool alone, under their own names."""
        return self.rows.drop(OURS, strict=False).rename({f"{OWN}{name}": name for name in OURS}, strict=False)

    def vectors(self, key: str) -> Half:
        """Features (num_rows, d) of one array of the npz files, mapped from disk; NaN where a row has none."""
        return np.load(self.folder / f"{key}.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def packed(self) -> uid.Uids:
        """The uids, shape (num_rows,)."""
        return uid.pack(self.rows["uid"])


def draw(source: PoolSource, num_rows: int, folder: Path, *, workers: int = 1, progress: Progress = NO_PROGRESS) -> PoolSample:
    """The sample of about `num_rows` rows in `folder`, drawn if it is not there. DataError if the pool has no rows."""
    if (folder / DONE).exists():
        return open_sample(folder)
    names = source.parts()
    counts = {name: source.num_rows(name) for name in names}
    num_pool = sum(counts.values())
    if not num_pool:
        raise DataError(f"{source.metadata} has no rows: there is nothing to explore.")
    last = last_key(num_rows, num_pool)
    keys = source.embedding_keys(names[0])
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    todo = [name for name in names if not (folder / PARTS / f"{name}.arrow").exists()]
    progress.start(len(names), "parts")
    progress.advance(len(names) - len(todo))
    work = partial(_draw_part, source, last, keys, folder / PARTS)
    for _ in process_map(work, todo, workers=min(workers, max(1, num_pool // 200_000))):
        progress.advance()
    _gathered(folder, names, keys)
    made = map_arrow_file(folder / ROWS).height
    told = {"num_pool": num_pool, "num_rows": made, "last": last, "parts": names, "features": keys}
    with replacing(folder / DONE) as temporary:
        temporary.write_text(json.dumps(told), encoding="utf-8")
    shutil.rmtree(folder / PARTS)
    return open_sample(folder)


def map_arrow_file(file: Path) -> pl.DataFrame:
    """An arrow file, mapped from disk where its types allow."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        made = pl.from_arrow(pa.ipc.open_file(source).read_all())
    assert isinstance(made, pl.DataFrame)
    return made


def open_sample(folder: Path) -> PoolSample:
    """Open a sample that was drawn earlier."""
    told = json.loads((folder / DONE).read_text(encoding="utf-8"))
    return PoolSample(folder, told["num_pool"], told["num_rows"], told["last"], tuple(told["parts"]), tuple(told["features"]))


def _draw_part(source: PoolSource, last: int, keys: Sequence[str], folder: Path, part: str) -> None:
    """The sampled rows of a part, then, last, the file that says so."""
    where = source.metadata.at(f"{part}.parquet")
    uids = source.read(part, ["uid"])["uid"]
    chosen = np.flatnonzero(is_sampled(uid.pack(uids, where), last)) if last < HIGHEST else np.arange(len(uids))
    columns = source.columns(part)
    frame = source.read(part, columns)[chosen] if len(chosen) else source.read(part, columns).clear()
    flat = _flat(frame).rename({name: f"{OWN}{name}" for name in OURS}, strict=False)
    rows = with_derived(flat).with_columns(row=pl.Series(chosen, dtype=pl.UInt32))
    for key in keys:
        if len(chosen):
            _write_array(folder / f"{part}.{key}.npy", _features(source, part, key, chosen))
    with replacing(folder / f"{part}.arrow") as temporary:
        rows.write_ipc(temporary, compression="uncompressed")


def _features(source: PoolSource, part: str, key: str, chosen: npt.NDArray[np.int64]) -> Half:
    """Features of some rows, block by block."""
    if not source.has_embeddings(part, key):
        return np.full((len(chosen), 0), np.nan, np.float16)
    found, start = [], 0
    for block in source.embeddings(part, key):
        here = chosen[(chosen >= start) & (chosen < start + len(block))] - start
        found.append(block[here].astype(np.float16))
        start += len(block)
    return np.concatenate(found)


def _write_array(path: Path, array: Half) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists as their length, unless the pool has a column of that name: what a table of the page can show and sort."""
    made: list[pl.Series] = []
    for column in frame:
        if isinstance(column.dtype, pl.List):
            if f"num_{column.name}" in frame.columns:
                continue
            made.append(column.list.len().cast(pl.UInt32).alias(f"num_{column.name}"))
        elif column.dtype == pl.String or column.dtype.is_numeric() or column.dtype == pl.Boolean:
            made.append(column)
        elif isinstance(column.dtype, (pl.Categorical, pl.Enum)):
            made.append(column.cast(pl.String))
    return pl.DataFrame(made)


def with_derived(rows: pl.DataFrame) -> pl.DataFrame:
    """Columns that filters look at and metadata does not have: words of a caption, its language, the host, the aspect ratio."""
    more: list[pl.Expr | pl.Series] = []
    if "text" in rows.columns:
        captions = rows["text"]
        plain = captions.fill_null("").str.replace_all("\n", " ", literal=True)
        told = language_model("lid.176.ftz").languages(plain) if rows.height else pl.Series([], dtype=pl.String)
        more.append(pl.col("text").str.count_matches(WORD).cast(pl.UInt32).alias("words"))
        more.append(told.cast(pl.String).set(captions.is_null(), None).alias("language"))
    if "url" in rows.columns:
        more.append(pl.col("url").str.extract(HOST).str.to_lowercase().alias("host"))
    sides = [pl.col(name).cast(pl.Float32) for name in ("original_width", "original_height") if name in rows.columns]
    if len(sides) == 2:
        ratio = pl.max_horizontal(sides) / pl.min_horizontal(sides)
        more.append(pl.when(ratio.is_finite()).then(ratio).alias("aspect_ratio"))
    return rows.with_columns(*more)


def _gathered(folder: Path, names: Sequence[str], keys: Sequence[str]) -> None:
    """The files of all parts as one file each: rows in the order of the parts."""
    tables = [
        map_arrow_file(folder / PARTS / f"{name}.arrow").with_columns(part=pl.lit(n, pl.UInt32)) for n, name in enumerate(names)
    ]
    with replacing(folder / ROWS) as temporary:
        pl.concat(tables, how="diagonal_relaxed").write_ipc(temporary, compression="uncompressed")
    heights = [table.height for table in tables]
    for key in keys:
        _joined(folder, key, [(folder / PARTS / f"{name}.{key}.npy", rows) for name, rows in zip(names, heights, strict=True)])


def _joined(folder: Path, key: str, files: Sequence[tuple[Path, int]]) -> None:
    """The features of all parts in one file, written piece by piece. DataError if parts have other dimensions."""
    arrays: list[tuple[Any, int]] = [
        (np.load(path, mmap_mode="r", allow_pickle=False), rows) if rows else (None, 0) for path, rows in files
    ]
    sizes = {array.shape[1] for array, rows in arrays if rows and array.shape[1]}
    if len(sizes) > 1:
        found = ", ".join(map(str, sorted(sizes)))
        raise DataError(f"The features {key} of the parts have different dimensions ({found}): embed the pool again.")
    shape = (sum(rows for _, rows in arrays), sizes.pop() if sizes else 0)
    with replacing(folder / f"{key}.npy") as temporary, temporary.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for array, rows in arrays:
            if rows:
                file.write((array if array.shape[1] else np.full((rows, shape[1]), np.nan, np.float16)).tobytes())
