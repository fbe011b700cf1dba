"""Reads parquet tables: only the wanted columns, each converted to text, whole numbers or boxes, and checked for invalid
UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.pool.tables import BATCH_ROWS, Fault, TableBatch, TableRequest

NUMBERS = ("original_width", "original_height")


def read(file: IO[bytes], where: str, asked: TableRequest) -> Iterator[TableBatch]:
    """Batches of text columns; boxes and sizes keep the types that they have. DataError for a column of another kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 1
    try:
        table = pq.ParquetFile(file)
        asked.check(table.schema_arrow.names, where)
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(dict.fromkeys(asked.columns.values()))):
            yield _batch(batch, row, where, asked)
            row += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, DataError):
            raise
        first = str(problem).split("\n", 1)[0]
        raise DataError(f"{where} cannot be read as parquet ({first}): replace the file.") from problem


def _batch(batch: Any, row: int, where: str, asked: TableRequest) -> TableBatch:
    columns: dict[str, pl.Series] = {}
    faults: list[Fault] = []
    for ours, theirs in asked.columns.items():
        column = batch.column(theirs)
        if _is_nested(column) and ours != "face_bboxes":
            raise DataError(
                f"{where}: column {theirs!r} has the type {column.type}, which is not valid for {ours!r}: map another column."
            )
        if _is_nested(column) or ours in NUMBERS:
            columns[ours] = _plain(column, where, theirs)
            continue
        columns[ours], bad = _texts(column, where, theirs)
        faults += [Fault(place, f"not_utf8_{ours}") for place in bad]
    lines = range(row, row + batch.num_rows)
    return TableBatch(pl.DataFrame([column.alias(ours) for ours, column in columns.items()]), lines, faults)


def _is_nested(column: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_nested(column.type)


def _texts(column: Any, where: str, name: str) -> tuple[pl.Series, list[int]]:
    """Return a column as text, and the places of values that are not UTF-8 (null in the text)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    if any(is_kind(column.type) for is_kind in kinds):
        try:
            column.validate(full=True)
            return _plain(column, where, name), []
        except pa.ArrowInvalid:
            column = column.cast(pa.large_string()).view(pa.large_binary())
    if any(is_kind(column.type) for is_kind in (*kinds, *binaries)):
        values = [_decoded(value) for value in column.to_pylist()]
        return pl.Series([v if isinstance(v, str) else None for v in values], dtype=pl.String), [
            place for place, value in enumerate(values) if isinstance(value, bytes)
        ]
    return _plain(column, where, name).cast(pl.String), []


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _plain(column: Any, where: str, name: str) -> pl.Series:
    made = pl.from_arrow(column)
    assert isinstance(made, pl.Series), (where, name)
    return made
