"""Reads jsonl as text: one JSON object per line, only the wanted keys; numbers keep their spelling, NaN is a missing value.

A line that is not an object is an error with its number. A value that cannot be a caption (a list, a lone surrogate) is a
fault of its row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.pool.tables import BATCH_ROWS, Fault, TableBatch, TableRequest
from datacomp_core.pool.text_lines import ESCAPED_BYTE, LineReader, not_encoded, text_faults

JSON_SPACE = " \t\r\n"  # JSON's white space: Python's strip() also removes control characters
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda name: None)
SHOWN_KEYS = 40


def read(file: IO[bytes], where: str, asked: TableRequest) -> Iterator[TableBatch]:
    """Batches of text columns; a key that a row lacks, null and NaN are nulls. Lists and objects stay as JSON text.

    DataError if a requested key is in no row.
    """
    keys: dict[str, None] = {}
    rows: list[list[str | None]] = []
    lines: list[int] = []
    faults: list[Fault] = []
    source = LineReader(file, where, asked.how.encoding, newline="\n")
    for line in source:
        source.record.clear()
        if not line.strip(JSON_SPACE):
            continue
        found = _object(line, where, source.number)
        if len(keys) < SHOWN_KEYS:
            keys |= dict.fromkeys(found)
        keys |= dict.fromkeys(theirs for theirs in asked.columns.values() if theirs in found)
        row: list[str | None] = []
        for ours, theirs in asked.columns.items():
            value = found.get(theirs)
            if isinstance(value, (list, dict)) and ours != "face_bboxes":
                faults.append(Fault(len(rows), f"not_a_text_{ours}"))
                value = None
            row.append(value if isinstance(value, str) or value is None else json.dumps(value))
        if not line.isascii() and ESCAPED_BYTE.search(line):
            _check_bytes(row, where, source.number, asked)
        rows.append(row)
        lines.append(source.number)
        if len(rows) == BATCH_ROWS:
            yield _batch(rows, lines, faults, asked)
            rows, lines, faults = [], [], []
    if lines or keys:
        asked.check(list(keys), where)
    if rows:
        yield _batch(rows, lines, faults, asked)


def _object(line: str, where: str, number: int) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line.strip(JSON_SPACE))
    except RecursionError as problem:
        raise DataError(f"{where}, line {number} is nested too deeply: write one flat JSON object per line.") from problem
    except ValueError as problem:
        told = f"{problem.msg}, column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else str(problem)
        raise DataError(f"{where}, line {number} is not JSON ({told}): write one object per line.") from problem
    if not isinstance(found, dict):
        raise DataError(f"{where}, line {number} is not a JSON object: write one object per line, with url and caption.")
    return found


def _check_bytes(row: list[str | None], where: str, number: int, asked: TableRequest) -> None:
    """DataError if a wanted value of a line with bytes of another encoding has one of them."""
    for theirs, value in zip(asked.columns.values(), row, strict=True):
        if value and ESCAPED_BYTE.search(value):
            raise not_encoded(where, number, theirs, value)


def _batch(rows: list[list[str | None]], lines: list[int], faults: list[Fault], asked: TableRequest) -> TableBatch:
    columns: dict[str, list[str | None]] = {}
    for ours, values in zip(asked.columns, zip(*rows, strict=True), strict=True):
        column = list(values)
        for place in text_faults(column):
            faults.append(Fault(place, f"lone_surrogate_{ours}"))
            column[place] = None
        columns[ours] = column
    return TableBatch(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), lines, faults)
