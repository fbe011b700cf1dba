"""Brings scores and features of a plain metadata folder into the order of its rows: by uid, never by guess. Aligned files (the
same names, the same uids in the same order) are used in place. All others are joined by uid into another folder. Position is
used only if there is no uid and it is requested.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import joining, parts, score_tables, uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.joining import Join, JoinCounts
from datacomp_core.parts import FEATURES, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

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
        if _is_aligned(source, folder, ".parquet", by_position=by_position):
            scores.append(folder)
            continue
        made, counts = _scores_by_uid(source, folder, local / f"scores{number}", out / f"scores{number}")
        scores.append(made)
        told.append((folder.url, counts))
    for number, folder in enumerate(source.features):
        tables = folder if folder.files(".parquet") else _scores_beside(folder)
        if tables is None:
            _require_uids(source, folder, by_position=by_position)
        if tables is None or _is_aligned(source, tables, ".npz", by_position=by_position, of=folder):
            features.append(folder)
            continue
        made, counts = _features_by_uid(source, folder, tables, local / f"features{number}", out / f"features{number}")
        features.append(made)
        told.append((folder.url, counts))
    return PoolSource(source.metadata, tuple(scores), tuple(features), source.shards), told


def require_aligned(source: PoolSource, *, by_position: bool = False) -> None:
    """DataError if scores have a different order than the metadata."""
    for folder in source.scores:
        if not _is_aligned(source, folder, ".parquet", by_position=by_position):
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


def _require_uids(source: PoolSource, folder: Folder, *, by_position: bool) -> None:
    """SpecError for npz files without a uid, whose rows could only be taken by position, unless that is asked for."""
    if by_position:
        return
    for part in source.parts():
        if not folder.exists(f"{part}.npz"):
            continue  # said by whoever reads it
        try:
            with folder.open(f"{part}.npz") as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError) as problem:
            raise DataError(f"{folder.at(part)}.npz cannot be read ({problem}): make or fetch it again.") from problem
        if not {"uid.npy", "uids.npy"} & set(names):
            raise SpecError(
                f"{folder.at(part)}.npz has no uids (no array `uid`, and no parquet of its name with a column `uid`): "
                f"{BY_POSITION}."
            )


def _is_aligned(source: PoolSource, folder: Folder, suffix: str, *, by_position: bool, of: Folder | None = None) -> bool:
    """Whether every part has its file, with the same uids in the same order. SpecError where there are no uids to tell.

    `of`: the folder with the files of that ending, if it is another than the one with the uids.
    """
    there, files = folder.files(), (of or folder).files()
    for part in source.parts():
        if f"{part}.parquet" not in there or f"{part}{suffix}" not in files:
            return False
        columns = parts.scan(folder, part).collect_schema().names()
        if "uid" not in columns:
            if not by_position:
                raise SpecError(f"{folder.at(part)}.parquet has no column `uid` to join by: {BY_POSITION}.")
            continue
        theirs = parts.scan(folder, part).select("uid").collect()["uid"]
        ours = _plain(source).read(part, ["uid"])["uid"]
        if len(ours) != len(theirs) or not ours.equals(theirs.cast(pl.String, strict=False)):
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
    columns = [name for name, dtype in schema.items() if name != "uid" and (dtype.is_numeric() or dtype == pl.Boolean)]
    if "uid" not in schema:
        raise SpecError(f"{files[0]} has no column `uid` to join by, and its rows do not match the metadata's part.")
    if not columns:
        raise DataError(f"{files[0]} has no numeric column besides the uid.")
    rows = sum(source.num_rows(part) for part in source.parts())
    made = Join(local, source.parts(), len(columns), rows)
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


def _features_by_uid(source: PoolSource, folder: Folder, tables: Folder, local: Path, out: Folder) -> tuple[Folder, JoinCounts]:
    """Find for every row the place of its features, then bring each array over, one part of theirs at a time.

    `tables` has the uids of each part of `folder`.
    """
    there = folder.files()
    stems = [name.removesuffix(".parquet") for name in tables.files(".parquet")]
    theirs = [stem for stem in stems if f"{stem}.npz" in there]
    names, rows = source.parts(), sum(source.num_rows(part) for part in source.parts())

    def places() -> Iterator[tuple[uid.Uids, joining.Values]]:
        for number, part in enumerate(theirs):
            uids = uid.pack(parts.scan(tables, part).select("uid").collect()["uid"].cast(pl.String))
            yield uids, np.stack([np.full(len(uids), float(number)), np.arange(len(uids), dtype=np.float64)], axis=1)

    join, counts = joining.by_uid(_pool(source), places(), Join(local, names, 2, rows, "first"))
    for part in names:
        wanted = join.values(part)
        arrays: dict[str, Any] = _gathered(folder, theirs, wanted)
        with out.writing(f"{part}.npz") as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    return out, counts


def _gathered(folder: Folder, theirs: Sequence[str], wanted: joining.Values) -> dict[str, Any]:
    """Every array of the npz files for some rows; NaN where there are none."""
    made: dict[str, npt.NDArray[Any]] = {}
    for number in np.unique(wanted[~np.isnan(wanted[:, 0]), 0]).astype(int).tolist():
        rows = np.flatnonzero(wanted[:, 0] == number)
        try:
            with folder.open(f"{theirs[int(number)]}.npz") as file, np.load(file, allow_pickle=False) as found:
                for key in found.files:
                    array = found[key]
                    if array.ndim == 2:
                        made.setdefault(key, np.full((len(wanted), array.shape[1]), np.nan, array.dtype))
                        made[key][rows] = array[wanted[rows, 1].astype(np.int64)]
        except (ValueError, zipfile.BadZipFile, IndexError) as problem:
            raise DataError(
                f"{folder.at(theirs[int(number)])}.npz cannot be read together with its parquet: {problem}"
            ) from problem
    return made
