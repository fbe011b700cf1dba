"""Tables of scores from outside, read in pieces: parquet, csv, tsv, jsonl, npz, or a pair of npy files.

A table has a key column (`uid`, `key` or `url`) and columns of numbers. `scores.npy` has its uids beside it in `uids.npy` (or
`scores_uids.npy`); an npz has the arrays `uid` (or `uids`) and the column.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import text_tables, uid, uid_lists, uid_values
from datacomp_core.errors import DatacompError, DataError, unknown
from datacomp_core.joining import Key, Values, keys_of

AT_ONCE = 1 << 21
EXACT = 1 << 53
BLOCK_BYTES = 1 << 26
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".npz", ".npy")
OTHER_NAMES = {"key": ("key", "__key__"), "uid": (), "url": ("url",)}
TEXT: tuple[Any, ...] = (pl.String, pl.Categorical)
Piece = tuple[uid.Uids, Values]


def read(files: Sequence[Path], key: Key, columns: Sequence[str]) -> Iterator[Piece]:
    """`(keys (n,), values (n, columns))` of all files, in order; NaN where a value is missing. DataError names what is wrong."""
    for file in files:
        if file.suffix.lower() == ".npy":
            if not file.stem.endswith("uids"):
                yield from _npy(file, columns)
        elif file.suffix.lower() == ".npz":
            yield from _npz(file, columns)
        else:
            row = 0
            for frame in frames(file):
                keys = _keys(frame, key, file, row)
                yield keys, np.stack([_numbers(frame, column, file, row) for column in columns], axis=1)
                row += frame.height


def frames(file: Path) -> Iterator[pl.DataFrame]:
    """A table of text or parquet, piece by piece."""
    reader = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}.get(file.suffix.lower(), _jsonl)
    try:
        yield from reader(file)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{file} cannot be read as a table: {str(problem).splitlines()[0]}") from problem


def _keys(frame: pl.DataFrame, key: Key, file: Path, row: int) -> uid.Uids:
    if key == "uid" and (uids := uid_values.columns_of(frame.columns)):
        return uid_values.from_columns([frame[one] for one in uids], str(file), row)
    name = next((name for name in OTHER_NAMES[key] if name in frame.columns), None)
    if name is None:
        raise DataError(f"{file} has no column {key!r} to join by; it has {', '.join(frame.columns) or 'no columns'}.")
    values = frame[name]
    if values.dtype not in TEXT:
        zeros = " (a number has lost the leading zeros of a key)" if values.dtype.is_integer() else ""
        raise DataError(f"{file}: the column {name!r} is {values.dtype}, but must be text to join by{zeros}.")
    return keys_of(values.cast(pl.String), key, str(file), row + 1)


def _numbers(frame: pl.DataFrame, column: str, file: Path, row: int) -> Values:
    if column not in frame.columns:
        raise unknown(f"column of {file}", column, frame.columns)
    values = frame[column]
    if values.dtype == pl.String:
        made = values.str.strip_chars().cast(pl.Float64, strict=False)
        bad = made.is_null() & values.is_not_null() & ~values.str.strip_chars().is_in(["", "nan", "NaN", "null", "None"])
        if bad.any():
            place = int(bad.arg_max() or 0)
            raise DataError(f"{file}, row {row + place + 1:,}: {values[place]!r} in the column {column!r} is not a number.")
        values = made
    if not (values.dtype.is_numeric() or isinstance(values.dtype, pl.Boolean | pl.Null)):
        raise DataError(f"{file}: the column {column!r} is {values.dtype}, but must contain numbers.")
    made = values.cast(pl.Float64).fill_null(float("nan"))
    if values.dtype.is_integer() and ((values > EXACT) | (values < -EXACT)).any():
        raise _inexact(file, column)
    return made.to_numpy()


def _inexact(file: Path, column: str) -> DataError:
    return DataError(f"{file}: whole numbers beyond 2^53 in the column {column!r} are not kept exactly: scale them down.")


def _floats(array: Any, file: Path, column: str) -> Any:
    """An array as float64. DataError if that loses digits of whole numbers."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and ((array > EXACT) | (array < -EXACT)).any():
        raise _inexact(file, column)
    return array.astype(np.float64)


def _parquet(file: Path) -> Iterator[pl.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=AT_ONCE):
            found: Any = pl.from_arrow(batch)
            yield found
    except pa.ArrowException as problem:
        raise DataError(f"{file} is not a parquet file: {str(problem).splitlines()[0]}") from problem


def _csv(file: Path) -> Iterator[pl.DataFrame]:
    return text_tables.tables(file, text_tables.names_of(text_tables.first_line(file)), header=True)


def _jsonl(file: Path) -> Iterator[pl.DataFrame]:
    for block in text_tables.line_blocks(file, BLOCK_BYTES):
        if block.strip():
            yield pl.read_ndjson(io.BytesIO(block), infer_schema_length=None)


def _npy(file: Path, columns: Sequence[str]) -> Iterator[Piece]:
    places = [file.with_name(f"{file.stem}_uids.npy"), file.with_name(f"{file.stem}.uids.npy"), file.with_name("uids.npy")]
    uids = next((place for place in places if place.exists()), None)
    if uids is None:
        raise DataError(f"{file} has no uids beside it: {places[0].name} or {places[-1].name} is needed.")
    try:
        values: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as problem:  # numpy's reader of headers raises a dozen kinds on bad bytes
        raise DataError(f"{file} is not an npy file of numbers: {problem}") from problem
    yield from _pairs(uids, values, columns, file)


def _npz(file: Path, columns: Sequence[str]) -> Iterator[Piece]:
    try:
        with np.load(file, allow_pickle=False) as found:
            names = set(found.files)
            uids = next((found[name] for name in ("uid", "uids") if name in names), None)
            if uids is None:
                raise DataError(f"{file} has no array `uid`; it has {', '.join(sorted(names)) or 'no arrays'}.")
            if missing := [column for column in columns if column not in names]:
                raise unknown(f"array of {file}", missing[0], names)
            arrays = [found[column] for column in columns]
    except DatacompError:
        raise
    except Exception as problem:  # zipfile, zlib and numpy's reader of headers raise a dozen kinds on bad bytes
        raise DataError(f"{file} is not an npz file of plain arrays: {problem}") from problem
    keys = uid_values.from_array(uids, str(file))
    for column, array in zip(columns, arrays, strict=True):
        if array.dtype.kind not in "fiub" or array.size != len(keys) or array.shape[:1] != keys.shape:
            raise DataError(
                f"{file}: the array {column!r} has shape {array.shape} and dtype {array.dtype}; it needs a number for each "
                f"of the {len(keys):,} uids."
            )
    yield keys, np.stack([_floats(a.reshape(-1), file, name) for name, a in zip(columns, arrays, strict=True)], axis=1)


def _pairs(uids: Path, values: Any, columns: Sequence[str], file: Path) -> Iterator[Piece]:
    if values.dtype.kind not in "fiub" or values.ndim != 1 or len(columns) != 1:
        raise DataError(f"{file} has shape {values.shape} and dtype {values.dtype}; one column of numbers is needed.")
    start = 0
    for keys in uid_lists.read([uids]):
        some = values[start : start + len(keys)]
        start += len(keys)
        if len(some) != len(keys):
            break
        yield keys, _floats(some, file, columns[0])[:, None]
    if start != len(values):
        raise DataError(f"{file} has {len(values):,} values and {uids} another number of uids.")
