"""Brings scores and features of a plain metadata folder into the order of its rows: by uid, never by guess. Aligned files (the
same names, the same uids in the same order) are used in place. All others are joined by uid into another folder. Position is
used only if there is no uid and it is requested.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import joining, parts, score_tables, uid, uid_values
from datacomp_core.errors import DataError, SpecError
from datacomp_core.joining import Join, JoinCounts
from datacomp_core.parts import FEATURES, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

UID_ARRAYS = ("uid", "uids")
OTHER_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
REPEATS = "remove one of each"
BY_POSITION = "give --by-position if the rows are known to be in the order of the metadata's"


def aligned(
    source: PoolSource, local: Path, out: Folder | None = None, *, by_position: bool = False
) -> tuple[PoolSource, list[tuple[str, JoinCounts]]]:
    """The source with its scores and features in row order, and what each join came to.

    The joins work in `local`, a folder of this machine's disk, and write into `out` (by default below it), which the workers of a
    selection must reach.
    """
    out = Folder(local) / "joined" if out is None else out
    told: list[tuple[str, JoinCounts]] = []
    scores, features = list[Folder](), list[Folder]()
    for number, folder in enumerate(source.scores):
        _require_parquet_alone(folder)
        if _is_aligned(source, _Rows(folder, ".parquet", folder), by_position=by_position):
            scores.append(folder)
            continue
        made, counts = _scores_by_uid(source, folder, local / f"scores{number}", out / f"scores{number}")
        scores.append(made)
        told.append((folder.url, counts))
    for number, folder in enumerate(source.features):
        theirs = _feature_uids(folder, by_position=by_position)
        if theirs is None or _is_aligned(source, theirs, by_position=by_position):
            features.append(folder)
            continue
        made, counts = _features_by_uid(source, theirs, local / f"features{number}", out / f"features{number}")
        features.append(made)
        told.append((folder.url, counts))
    return PoolSource(source.metadata, tuple(scores), tuple(features), source.shards), told


def _require_parquet_alone(folder: Folder) -> None:
    """DataError for tables of scores that would be left out, because of their names."""
    names = [name for name in folder.files() if not name.startswith(".")]
    other = [
        name for name in names if name.lower().endswith(OTHER_TABLES) or (name.startswith("_") and name.endswith(".parquet"))
    ]
    if other:
        raise DataError(
            f"{folder} has tables that --scores does not read (number: {len(other)}; one is {other[0]}): write them as parquet "
            "files whose names do not begin with `_`, or name the folder in the recipe by the score `column_of`."
        )


def require_aligned(source: PoolSource, *, by_position: bool = False) -> None:
    """DataError if scores have a different order than the metadata."""
    for folder in source.scores:
        if not _is_aligned(source, _Rows(folder, ".parquet", folder), by_position=by_position):
            raise DataError(
                f"The scores in {folder} are not in the order of the metadata in {source.metadata} (uids or parts differ): join "
                "them by uid with `aligned`, as `datacomp filter --scores` does."
            )


def _scores_beside(features: Folder) -> Folder | None:
    """The tables with the uids of a `features/` that `datacomp embed` wrote: its `scores/`. None if there are none."""
    home, _, name = features.url.rstrip("/").rpartition("/")
    if name != FEATURES or not home:
        return None
    beside, stems = Folder(home) / SCORES, [file.removesuffix(".npz") for file in features.files(".npz")]
    there = beside.files(".parquet")
    return beside if stems and all(f"{stem}.parquet" in there for stem in stems) else None


@dataclass(frozen=True)
class _Rows:
    """Files of rows, and where their uids are: parquets of their names, or without `tables` an array `uid` of each npz."""

    files: Folder
    suffix: str
    tables: Folder | None

    def names(self) -> list[str]:
        """The names, without their endings, of the files that have uids beside them."""
        stems = [file.removesuffix(self.suffix) for file in self.files.files(self.suffix)]
        known = self.tables.files(".parquet") if self.tables is not None else {}
        return [stem for stem in stems if self.tables is None or f"{stem}.parquet" in known]

    def uids(self, name: str) -> uid.Uids | None:
        """The uids of a file's rows, in their order; None if its table has no column of them."""
        if self.tables is None:
            return _array_of_uids(self.files, name)
        columns = uid_values.columns_of(parts.scan(self.tables, name).collect_schema().names())
        if not columns:
            return None
        frame = parts.scan(self.tables, name).select(columns).collect()
        return uid_values.from_columns([frame[column] for column in columns], self.tables.at(f"{name}.parquet"), 0)


def _array_of_uids(folder: Folder, name: str) -> uid.Uids | None:
    """The array `uid` of an npz; None if it has none."""
    with _read_npz(folder, name) as found:
        array = next((found[key] for key in UID_ARRAYS if key in found.files), None)
    return None if array is None else uid_values.from_array(array, f"The array of uids in {folder.at(name)}.npz")


@contextmanager
def _read_npz(folder: Folder, name: str) -> Generator[Any]:
    """An open npz, of which arrays are read when they are asked for. DataError if it cannot be read."""
    try:
        with folder.open(f"{name}.npz") as file, np.load(file, allow_pickle=False) as found:
            yield found
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError, IndexError) as problem:
        raise DataError(f"{folder.at(name)}.npz cannot be read ({problem}): make or fetch it again.") from problem


def _feature_uids(folder: Folder, *, by_position: bool) -> _Rows | None:
    """Where the uids of features are: in parquets beside them, or in each npz. None if they are taken by position.

    SpecError for npz files without a uid, whose rows could only be taken by position, unless that is asked for.
    """
    tables = folder if folder.files(".parquet") else _scores_beside(folder)
    if tables is not None:
        return _Rows(folder, ".npz", tables)
    found = _Rows(folder, ".npz", None)
    without = next((name for name in found.names() if not _has_uids(folder, name)), None)
    if without is not None and not by_position:
        raise SpecError(
            f"{folder.at(without)}.npz has no uids (no array `uid`, and no parquet of its name with a column `uid`): "
            f"{BY_POSITION}."
        )
    return found if without is None and found.names() else None


def _has_uids(folder: Folder, name: str) -> bool:
    with _read_npz(folder, name) as found:
        return bool(set(UID_ARRAYS) & set(found.files))


def _is_aligned(source: PoolSource, theirs: _Rows, *, by_position: bool) -> bool:
    """Whether every part has its file, with the same uids in the same order. SpecError where there are no uids to tell."""
    there = set(theirs.names())
    for part in source.parts():
        if part not in there:
            return False
        found = theirs.uids(part)
        if found is None:
            if not by_position:
                raise SpecError(f"{theirs.files.at(part)}.parquet has no column `uid` to join by: {BY_POSITION}.")
            continue
        if not np.array_equal(found, uid.pack(_plain(source).read(part, ["uid"])["uid"])):
            return False
    return True


def _files(folder: Folder, local: Path, suffix: str) -> list[Path]:
    """The files of a folder on the local disk."""
    names = [name for name in folder.files(suffix) if not name.startswith("_")]
    if folder.is_local:
        return [Path(folder.at(name)) for name in names]
    for name in names:
        with Folder(local / "brought").writing(name) as path:
            path.write_bytes(folder.read(name))
    return [local / "brought" / name for name in names]


def _plain(source: PoolSource) -> PoolSource:
    """The metadata alone."""
    return PoolSource(source.metadata)


def _pool(source: PoolSource) -> Iterator[tuple[str, uid.Uids]]:
    for part in source.parts():
        yield part, uid.pack(_plain(source).read(part, ["uid"])["uid"])


def _scores_by_uid(source: PoolSource, folder: Folder, local: Path, out: Folder) -> tuple[Folder, JoinCounts]:
    files = _files(folder, local, ".parquet")
    if not files:
        raise DataError(f"{folder} has no parquet files with scores: give a folder that has.")
    schema = pl.read_parquet_schema(files[0])
    keys = uid_values.columns_of(list(schema))
    columns = [name for name, dtype in schema.items() if name not in keys and (dtype.is_numeric() or dtype == pl.Boolean)]
    if not keys:
        raise SpecError(f"{files[0]} has no column `uid` to join by, and its rows do not match the metadata's part.")
    if not columns:
        raise DataError(f"{files[0]} has no numeric column besides the uid.")
    rows = sum(source.num_rows(part) for part in source.parts())
    advice = f"{REPEATS}, or name them in the recipe by the score `column_of`, with `repeated: first` or `mean`"
    size = sum(file.stat().st_size for file in files)
    made = Join(local, source.parts(), len(columns), rows, table=folder.url, advice=advice, table_bytes=size)
    join, counts = joining.by_uid(_pool(source), score_tables.read(files, "uid", columns), made)
    for part in source.parts():
        values = join.values(part)
        frame = _plain(source).read(part, ["uid"])
        for place, name in enumerate(columns):
            column = pl.Series(name, values[:, place], nan_to_null=True)
            frame = frame.with_columns(column.cast(_kept_type(schema[name])))
        with out.writing(f"{part}.parquet") as path:
            frame.write_parquet(path, compression="zstd")
    return out, counts


def _kept_type(dtype: pl.DataType) -> pl.DataType | type[pl.DataType]:
    return pl.Float32 if dtype == pl.Float32 else pl.Float64


def _features_by_uid(source: PoolSource, theirs: _Rows, local: Path, out: Folder) -> tuple[Folder, JoinCounts]:
    """Find for every row the place of its features, then bring each array over, one part of theirs at a time."""
    stems = theirs.names()
    names, rows = source.parts(), sum(source.num_rows(part) for part in source.parts())

    def places() -> Iterator[tuple[uid.Uids, joining.Values]]:
        for number, stem in enumerate(stems):
            uids = theirs.uids(stem)
            if uids is None:
                raise SpecError(f"{theirs.files.at(stem)}.npz has no uids in the parquet of its name to join by.")
            yield uids, np.stack([np.full(len(uids), float(number)), np.arange(len(uids), dtype=np.float64)], axis=1)

    join, counts = joining.by_uid(_pool(source), places(), Join(local, names, 2, rows, "first"))
    if counts.repeated:
        compared = Join(local / "repeats", names, 1, rows, table=f"{theirs.files} (features, by their digests)", advice=REPEATS)
        counts.disagreeing = _disagreeing_features(theirs, compared)
    for part in names:
        arrays: dict[str, Any] = _gathered(theirs.files, stems, join.values(part))
        with out.writing(f"{part}.npz") as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    return out, counts


def _disagreeing_features(theirs: _Rows, join: Join) -> int:
    """Compare the features of uids that repeat, by a digest of each row. DataError if they differ."""
    for stem in theirs.names():
        uids = theirs.uids(stem)
        if uids is None:
            continue
        digests = [hashlib.blake2b(digest_size=6) for _ in uids]
        with _read_npz(theirs.files, stem) as found:
            for array in (found[key] for key in sorted(found.files)):
                if _is_of_features(array):
                    for digest, row in zip(digests, array, strict=True):
                        digest.update(row.tobytes())
        join.add_table(uids, np.array([float(int.from_bytes(one.digest(), "big")) for one in digests]))
    return join.run().disagreeing


def _is_of_features(array: npt.NDArray[Any]) -> bool:
    return array.ndim == 2 and np.issubdtype(array.dtype, np.floating)


def _gathered(folder: Folder, theirs: Sequence[str], wanted: joining.Values) -> dict[str, Any]:
    """Every array of features of the npz files for some rows; NaN where there are none."""
    made: dict[str, npt.NDArray[Any]] = {}
    numbers = np.unique(wanted[~np.isnan(wanted[:, 0]), 0]).astype(int).tolist()
    for number in numbers or [0]:
        rows = np.flatnonzero(wanted[:, 0] == number)
        with _read_npz(folder, theirs[number]) as found:
            for key in found.files:
                array = found[key]
                if _is_of_features(array):
                    made.setdefault(key, np.full((len(wanted), array.shape[1]), np.nan, array.dtype))
                    made[key][rows] = array[wanted[rows, 1].astype(np.int64)]
    return made
