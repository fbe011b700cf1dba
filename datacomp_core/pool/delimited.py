"""Reads csv and tsv as text: with Python's strict reader, only the wanted columns, and the line of every error.

A lone `"` at the start of a field makes a csv reader take the rows after it for part of the field. Therefore a record over
several lines, two of which look like rows, is an error and not a caption.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.pool.tables import BATCH_ROWS, TableBatch, TableRequest
from datacomp_core.pool.text_lines import ESCAPED_BYTE, MAX_LINE, LineReader, not_encoded, text_faults

MAX_FIELD = 1 << 20
URL = re.compile(r'\s*"?[a-zA-Z][a-zA-Z0-9+.-]*://')
NO_QUOTES = "If a quote has no special meaning in this file, set --quoting none; otherwise correct the file."


def read(file: IO[bytes], where: str, asked: TableRequest, delimiter: str) -> Iterator[TableBatch]:
    """Batches of text columns, in the order of the file; an empty field is an empty text."""
    rows = _Rows(LineReader(file, where, asked.how.encoding, newline=""), asked, delimiter)
    header = list(asked.how.header) or rows.next_row() or []
    asked.check(header, where, _hint(header, delimiter))
    places = [header.index(theirs) for theirs in asked.columns.values()]
    rows.expect(len(header), header.index(asked.columns["url"]) if "url" in asked.columns else None)
    taken: list[list[str]] = []
    starts: list[int] = []
    while (row := rows.next_row()) is not None:
        taken.append([row[place] for place in places])
        starts.append(rows.line)
        if len(taken) == BATCH_ROWS:
            yield _batch(taken, starts, where, asked)
            taken, starts = [], []
    if taken:
        yield _batch(taken, starts, where, asked)


class _Rows:
    """Records of a csv, each checked against the header."""

    def __init__(self, lines: LineReader, asked: TableRequest, delimiter: str) -> None:
        csv.field_size_limit(MAX_FIELD)
        self._lines, self._how, self._delimiter = lines, asked.how, delimiter
        quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None} if asked.how.quoting == "none" else {}
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True, **quoting)
        self._width, self._url = 0, None
        self.line = 1
        """The line where the last record began."""

    def expect(self, width: int, url: int | None) -> None:
        self._width, self._url = width, url

    def next_row(self) -> list[str] | None:
        """Return the next non-empty record, or None at the end of the file."""
        while True:
            self._lines.record.clear()
            self.line = self._lines.number + 1
            try:
                row = next(self._reader)
            except StopIteration:
                return None
            except csv.Error as problem:
                raise self._broken(str(problem)) from problem
            if not row:
                continue
            self._check(row)
            return row

    def _check(self, row: list[str]) -> None:
        """DataError if a row does not have the header's width, or seems to contain other rows."""
        where, several = f"{self._lines.where}, line {self.line}", len(self._lines.record) > 1
        if self._width and len(row) != self._width:
            end = f" (the record ends in line {self._lines.number})" if several else ""
            raise DataError(f"{where}: the row has {len(row)} fields, but the header has {self._width}{end}. {NO_QUOTES}")
        if several and self._how.quoting == "checked" and self._swallows():
            raise DataError(
                f"{where}: a quoted field that begins here continues to line {self._lines.number} and seems to contain whole "
                f"rows, so a quote is missing or superfluous. {NO_QUOTES} If the field is intended, read the file with "
                "--quoting trusted."
            )

    def _swallows(self) -> bool:
        """Return whether two lines of one record have a url in the header's url column, counted from either end."""
        if self._url is None:
            return False
        like_rows = 0
        for line in self._lines.record:
            fields = line.rstrip("\r\n").split(self._delimiter)
            if len(fields) >= self._width and any(URL.match(fields[at]) for at in (self._url, self._url - self._width)):
                like_rows += 1
        return like_rows > 1

    def _broken(self, problem: str) -> DataError:
        where = f"{self._lines.where}, line {self.line}"
        if "field limit" in problem:
            return DataError(
                f"{where}, column {self._longest()}: a field is longer than {MAX_FIELD:,} characters: shorten "
                "it, or check the quotes. " + NO_QUOTES
            )
        if "new-line character" in problem or "carriage" in problem:
            return DataError(f"{where}: an unquoted field contains a line break: correct the file.")
        return DataError(f"{where}: a quote is not closed correctly ({problem}). " + NO_QUOTES)

    def _longest(self) -> int:
        """Return the number, from 1, of the field in which the reader failed."""
        csv.field_size_limit(2 * MAX_LINE)
        try:
            quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None} if self._how.quoting == "none" else {}
            fields = next(csv.reader(list(self._lines.record), delimiter=self._delimiter, **quoting), [""])
        finally:
            csv.field_size_limit(MAX_FIELD)
        return 1 + max(range(len(fields)), key=lambda place: len(fields[place]))


def _batch(rows: list[list[str]], lines: list[int], where: str, asked: TableRequest) -> TableBatch:
    columns: dict[str, Sequence[str]] = {}
    for (ours, theirs), values in zip(asked.columns.items(), zip(*rows, strict=True), strict=True):
        for place in text_faults(values):
            if ESCAPED_BYTE.search(values[place]):
                raise not_encoded(where, lines[place], theirs, values[place])
        columns[ours] = values
    return TableBatch(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), lines)


def _hint(header: Sequence[str], delimiter: str) -> str:
    """Return a hint for a header that lacks a column."""
    if any(URL.match(name) for name in header):
        return "Its first line looks like a row: name the columns with --header url,text."
    other = next((c for c in ";\t|," if c != delimiter and len(header) == 1 and c in header[0]), "")
    shown = {"\t": "a tab"}.get(other, repr(other))
    return f"Its columns seem to be separated by {shown}: set --delimiter." if other else ""
