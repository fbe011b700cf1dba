"""The manifest of a record in a bundle: how much it would be when decoded is known before it is decoded.

A parquet file of kilobytes may stand for gigabytes: by many equal rows, and by a long text that a dictionary has once and every
row repeats. Footer and dictionaries tell; what passes here is as large in memory as a table of files may be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datacomp_core.errors import DataError
from datacomp_core.store.record import Record

MAX_ROWS = 5_000_000
MAX_ROW_BYTES = 1024
MAX_TEXT_BYTES = 1 << 30
COLUMNS = {"path": "BYTE_ARRAY", "size": "INT64", "sha256": "BYTE_ARRAY"}
TEXTS = ["path", "sha256"]


def check(path: Path, record: Record) -> None:
    """DataError if it is none, is not of its record, or would grow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"The manifest of {record.address}"
    if not path.is_file():
        raise DataError(f"{name} is not in the bundle.")
    try:
        footer = pq.ParquetFile(path).metadata
        _check_footer(footer, path.stat().st_size, record, name)
        texts = pq.read_table(path, columns=TEXTS, read_dictionary=TEXTS, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise DataError(f"{name} is not a parquet file of path, size and sha256.") from problem
    for column in texts.columns:
        _check_texts(column, name)


def _check_footer(footer: Any, num_bytes: int, record: Record, name: str) -> None:
    rows = footer.num_rows
    if rows != record.outputs.num_files:
        raise DataError(f"{name} has {rows} rows, but its record names {record.outputs.num_files} files.")
    columns = [footer.schema.column(number) for number in range(footer.num_columns)]
    if {one.path: one.physical_type for one in columns} != COLUMNS or len(columns) != len(COLUMNS):
        raise DataError(f"{name} has other columns than {', '.join(COLUMNS)}.")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    decoded = sum(max(group.total_byte_size, 0) for group in groups)
    if rows != sum(group.num_rows for group in groups) or any(group.num_rows < 0 for group in groups):
        raise DataError(f"{name} has row groups that do not add up to its {rows} rows.")
    if rows > min(MAX_ROWS, num_bytes) or decoded > MAX_ROW_BYTES * rows + (1 << 20):
        raise DataError(
            f"{name} has {rows:,} rows and {decoded:,} bytes when decoded, more than the limit for {num_bytes:,} bytes."
        )


def _check_texts(column: Any, name: str) -> None:
    """Lengths of what the dictionaries have, and of what the rows make of them. Each row's file has a different path."""
    import pyarrow.compute as pc

    total = 0
    for chunk in column.chunks:
        lengths = pc.call_function("binary_length", [chunk.dictionary])
        if (pc.call_function("max", [lengths]).as_py() or 0) > MAX_ROW_BYTES:
            raise DataError(f"{name} has a text of more than {MAX_ROW_BYTES} bytes, the limit.")
        total += pc.call_function("sum", [lengths.take(chunk.indices)]).as_py() or 0
    if total > MAX_TEXT_BYTES:
        raise DataError(f"{name} has {total:,} bytes of text when decoded, more than the limit.")
