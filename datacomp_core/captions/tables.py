"""Tables of captions from outside, read in pieces: parquet; csv, tsv, jsonl, packed or not. What is wrong with a row is counted.

A table has a key column and a column of text, which may be a list of several captions; optionally a score and the name of a
source. A text that is empty or is not UTF-8 has no caption in it. A row without a usable key cannot be joined.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import text_tables, uid, uid_values
from datacomp_core.errors import DataError, unknown
from datacomp_core.joining import hash_texts, plain_keys

OF_TEXT = (".csv", ".tsv", ".jsonl", ".ndjson")
SUFFIXES = (".parquet", *OF_TEXT, *(ending + packed for ending in OF_TEXT for packed in text_tables.PACKED))
BATCH_ROWS = 1 << 16
BLOCK_BYTES = 1 << 24
SURROGATE = re.compile("[\ud800-\udfff]")
SHA256 = r"^[0-9a-f]{64}$"
OTHER_NAMES = {"uid": ("uid",), "key": ("key", "__key__"), "url": ("url",), "sha256": ("sha256",)}
TEXT_NAMES = ("text", "caption")


@dataclass(frozen=True)
class CaptionColumns:
    """The names of the columns; empty means the usual name, or no column for score and source."""

    key: str
    key_column: str = ""
    text: str = ""
    score: str = ""
    source: str = ""

    def found(self, there: list[str], where: str) -> CaptionColumns:
        """The same with the names that the table has. DataError names what it lacks."""
        if not there:
            raise DataError(f"{where} is empty: give a table of captions with a header. Write it again, or move it away.")
        key = self.key_column or next((name for name in OTHER_NAMES[self.key] if name in there), "")
        text = self.text or next((name for name in TEXT_NAMES if name in there), "")
        if not self.text and set(TEXT_NAMES) <= set(there):
            raise DataError(
                f"{where} has the columns {' and '.join(TEXT_NAMES)}: say which one has the captions (--text-column)."
            )
        if self.key == "uid" and not key:
            key = "+".join(next((pair for pair in uid_values.TWO_COLUMNS if set(pair) <= set(there)), ()))
        for name, what in ((key, f"column {self.key!r} to join by"), (text, "column 'text' or 'caption'")):
            if not name:
                raise DataError(f"{where} has no {what}; it has {', '.join(there)}. Name it (--key-column, --text-column).")
        for name in (*key.split("+"), text, self.score, self.source):
            if name and name not in there:
                raise unknown(f"column of {where}", name, there)
        return CaptionColumns(self.key, key, text, self.score, self.source)

    @property
    def wanted(self) -> list[str]:
        return list(dict.fromkeys(name for name in (*self.key_column.split("+"), self.text, self.score, self.source) if name))


@dataclass
class CaptionRows:
    """Some rows of a table that can be joined: keys (n,) and a frame of source (null: the set's own), text, score."""

    keys: uid.Uids
    frame: pl.DataFrame
    counts: Counter[str] = field(default_factory=Counter[str])


def read(file: Path, columns: CaptionColumns) -> Iterator[CaptionRows]:
    """All rows of a file, piece by piece, in their order. DataError if the file itself cannot be read."""
    plain = file.with_suffix("") if is_packed(file) else file
    reader = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}.get(plain.suffix.lower(), _jsonl)
    row = 0
    try:
        for frame, names in reader(file, columns):
            yield _rows(frame, names, f"{file}", row)
            row += frame.height
    except (pl.exceptions.PolarsError, *text_tables.UNREADABLE) as problem:
        raise DataError(f"{file} is not readable as a table: {str(problem).splitlines()[0]}") from problem


def is_packed(file: Path) -> bool:
    return file.suffix.lower() in text_tables.PACKED


def _rows(frame: pl.DataFrame, names: CaptionColumns, where: str, row: int) -> CaptionRows:
    counts = Counter[str](rows=frame.height)
    keys, has_key = _keys(frame, names, where, row)
    counts["without_key"] = int((~has_key).sum())
    made = pl.DataFrame({"at": np.flatnonzero(has_key)})
    made = made.with_columns(
        text=frame[names.text].gather(made["at"]),
        score=_scores(frame, names.score, where).gather(made["at"]),
        source=_sources(frame, names.source).gather(made["at"]),
    )
    if isinstance(made["text"].dtype, pl.List | pl.Array):
        made = made.explode("text", empty_as_null=True)
        counts["rows"] += made.height - int(has_key.sum())
    texts, bad = _texts(made["text"], where, names.text)
    counts["not_utf8"] = int(bad.sum())
    empty = ~bad & (texts.is_null() | (texts.str.strip_chars() == ""))
    counts["empty"] = int(empty.sum())
    good = (~bad & ~empty).to_numpy()
    places = np.cumsum(has_key) - 1
    kept = made.with_columns(texts.alias("text")).filter(pl.Series(good))
    counts["without_score"] = int(kept["score"].is_finite().not_().fill_null(True).sum()) if names.score else 0
    return CaptionRows(uid.take(keys, places[kept["at"].to_numpy()]), kept.select("source", "text", "score"), counts)


def _keys(frame: pl.DataFrame, names: CaptionColumns, where: str, row: int) -> tuple[uid.Uids, npt.NDArray[np.bool_]]:
    """128 bits of each usable key, and which rows have one."""
    columns = [frame[name] for name in names.key_column.split("+")]
    first = columns[0]
    if names.key == "uid" and (len(columns) > 1 or first.dtype.is_nested() or _is_halves(first)):
        return uid_values.from_columns(columns, where, row), np.ones(frame.height, np.bool_)
    if names.key == "sha256" and first.dtype == pl.Binary and first.null_count() < len(first) and _of_bytes(first, 32):
        first = first.bin.encode("hex")
    text, bad = _texts(_whole(first, names, where), where, names.key_column)
    plain = text.str.strip_chars() if names.key != "url" else text
    good = plain.is_not_null() & (plain != "") & ~bad
    if names.key == "uid":
        plain = plain.str.to_lowercase().str.strip_prefix("0x")
        good &= plain.str.contains(uid_values.HEX)
    elif names.key == "sha256":
        plain = plain.str.to_lowercase()
        good &= plain.str.contains(SHA256)
    elif names.key == "key":
        plain = plain.str.replace(r"^([0-9]+)\.0$", "${1}")  # pandas writes keys so if one is missing
    good = good.fill_null(False)
    plain = plain_keys(plain.filter(good)) if names.key == "key" else plain.filter(good)
    packed = uid.pack(plain.str.zfill(uid.HEX_DIGITS)) if names.key == "uid" else hash_texts(plain.to_list())
    return packed, good.to_numpy()


def _is_halves(column: pl.Series) -> bool:
    """Whether a column contains uids of 16 bytes, not their digits."""
    return column.dtype == pl.Binary and not column.null_count() and _of_bytes(column, 16)


def _of_bytes(column: pl.Series, size: int) -> bool:
    return bool((column.bin.size() == size).all())


def _whole(column: pl.Series, names: CaptionColumns, where: str) -> pl.Series:
    """Keys that are numbers as text; pandas makes them floats where one is missing."""
    if column.dtype.is_float() and names.key == "key":
        there, limit = column.fill_nan(None), 1 << (24 if column.dtype == pl.Float32 else 53)
        if not ((there.abs() < limit) & (there == there.floor())).all():
            raise DataError(
                f"{where}: the column {names.key_column!r} is {column.dtype} and has numbers that are not whole or too large "
                "to be exact: write the keys as text."
            )
        column = there.cast(pl.Int64)
    return column.cast(pl.String) if column.dtype.is_integer() else column


def _texts(column: pl.Series, where: str, name: str) -> tuple[pl.Series, pl.Series]:
    """A column as text, null where it has no UTF-8 form, and which rows those are."""
    kind = column.dtype
    none = pl.Series([False]).new_from_index(0, len(column)) if len(column) else pl.Series([], dtype=pl.Boolean)
    if kind == pl.String:
        return column, none
    if kind == pl.Null or isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String), none
    if kind != pl.Binary:
        raise DataError(f"{where}: the column {name!r} is {kind}, but must be text: name another column, or write it as text.")
    decoded = [_decoded(value) for value in column.to_list()]
    texts = pl.Series([value if value else None for value, _ in decoded], dtype=pl.String)
    return texts, pl.Series([bad for _, bad in decoded], dtype=pl.Boolean)


def _decoded(value: bytes | None) -> tuple[str | None, bool]:
    try:
        return (None if value is None else value.decode("utf-8")), False
    except UnicodeDecodeError:
        return None, True


def _scores(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    if not name:
        return (
            pl.Series("score", [None], dtype=pl.Float32).new_from_index(0, frame.height)
            if frame.height
            else pl.Series("score", [], dtype=pl.Float32)
        )
    values = frame[name]
    made = values.str.strip_chars().cast(pl.Float32, strict=False) if values.dtype == pl.String else values
    if not (made.dtype.is_numeric() or made.dtype == pl.Null):
        raise DataError(f"{where}: the column {name!r} is {values.dtype}, but must contain numbers.")
    return made.cast(pl.Float32, strict=False).fill_nan(None).alias("score")


def _sources(frame: pl.DataFrame, name: str) -> pl.Series:
    if name:
        return frame[name].cast(pl.String, strict=False).alias("source")
    return pl.Series("source", [None] * frame.height, dtype=pl.String)


Read = Iterator[tuple[pl.DataFrame, CaptionColumns]]


def _parquet(file: Path, columns: CaptionColumns) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = columns.found(table.schema_arrow.names, str(file))
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=names.wanted):
            yield pl.DataFrame([_checked(batch.column(name)).alias(name) for name in names.wanted]), names
    except pa.ArrowException as problem:
        raise DataError(f"{file} is not a parquet file: {str(problem).splitlines()[0]}") from problem


def _checked(column: Any) -> pl.Series:
    """An arrow column; text that claims to be UTF-8 and is not becomes bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return pl.Series(column.cast(pa.list_(pa.large_binary())).to_pylist(), dtype=pl.List(pl.Binary))
        column = column.cast(pa.large_string()).view(pa.large_binary())
    found: Any = pl.from_arrow(column)
    return found


def _csv(file: Path, columns: CaptionColumns) -> Read:
    there = text_tables.names_of(text_tables.first_line(file))
    names = columns.found(there, str(file))
    for frame in text_tables.tables(file, there, header=True):
        yield frame.select(names.wanted), names


def _jsonl(file: Path, columns: CaptionColumns) -> Read:
    """Lines of objects. The first rows say which columns there are; a text may be a number or a list of texts."""
    names: CaptionColumns | None = None
    number = 0
    for block in text_tables.line_blocks(file, BLOCK_BYTES):
        rows: list[dict[str, Any]] = []
        for line in block.split(b"\n"):
            number += 1
            if line.strip(b" \t\r"):
                rows.append(_object(line, f"{file}, line {number:,}"))
        number -= block.endswith(b"\n")
        if not rows:
            continue
        names = names or columns.found(list(dict.fromkeys(key for row in rows[:1000] for key in row)), str(file))
        yield _frame(rows, names, str(file)), names


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8", "surrogateescape").removeprefix(text_tables.BOM))
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{where} is not JSON ({problem}): correct the file; it needs one object per line.") from problem
    if not isinstance(found, dict):
        raise DataError(f"{where} is not a JSON object: write one object per line, with a key and a text.")
    return found


def _frame(rows: list[dict[str, Any]], names: CaptionColumns, where: str) -> pl.DataFrame:
    made: dict[str, pl.Series] = {}
    odd = next((value for row in rows if not _is_texts(value := row.get(names.text))), None)
    if odd is not None:
        told = json.dumps(odd)[: uid_values.SHOWN]
        raise DataError(
            f"{where}: {told} in {names.text!r} is not a text: write a text or a list of texts there, or name another column "
            "(--text-column)."
        )
    for name in names.wanted:
        values = [row.get(name) for row in rows]
        if name == names.score:
            made[name] = pl.Series([_number(value) for value in values], dtype=pl.Float64)
        elif name == names.text and any(isinstance(value, list) for value in values):
            lists = [value if isinstance(value, list) else [value] for value in values]
            made[name] = pl.Series([[_bytes(one) for one in some] for some in lists], dtype=pl.List(pl.Binary))
        else:
            made[name] = pl.Series([_bytes(value) for value in values], dtype=pl.Binary)
    return pl.DataFrame(made)


def _is_texts(value: Any) -> bool:
    return all(_bytes(one) is not None or _is_missing(one) for one in (value if isinstance(value, list) else [value]))


def _is_missing(value: Any) -> bool:
    """null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _bytes(value: Any) -> bytes | None:
    """Return a text's bytes as in the file; a lone surrogate that was escaped becomes bytes that are not UTF-8."""
    if isinstance(value, bool) or _is_missing(value) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) else None
