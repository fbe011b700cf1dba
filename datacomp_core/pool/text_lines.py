"""Reads the numbered lines of a text file in a known encoding, with a length limit."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from datacomp_core.errors import DataError

MAX_LINE = 16 << 20
SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class LineReader:
    """An iterator over lines with their line ends. Bytes that are not UTF-8 become lone surrogates, which `not_encoded`
    reports. `number` is the number of the last line, `record` the text since the owner cleared it. DataError for a line that is
    too long.
    """

    def __init__(self, file: IO[bytes], where: str, encoding: str, newline: str) -> None:
        self.where = where
        self.number = 0
        self.record: list[str] = []
        self._text = _text(file, where, encoding, newline)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(MAX_LINE)
        except UnicodeError as problem:
            raise DataError(
                f"{self.where} is not in the given encoding, after line {self.number} ({problem}): give another encoding."
            ) from problem
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            raise DataError(
                f"{self.where}, line {self.number} is longer than {MAX_LINE:,} characters: check that this is a text table."
            )
        self.record.append(line)
        return line


def _text(file: IO[bytes], where: str, encoding: str, newline: str) -> io.TextIOWrapper:
    start = file.read(4)
    if encoding == "utf-8":
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
            raise DataError(f"{where} is UTF-16, not UTF-8, by its first bytes: set --encoding utf-16.")
        encoding, errors = "utf-8-sig", "surrogateescape"
    else:
        errors = "strict"
    return io.TextIOWrapper(io.BufferedReader(_Rest(start, file), 1 << 20), encoding, errors=errors, newline=newline)


class _Rest(io.RawIOBase):
    """A file whose first bytes have already been read. Closing this does not close `file`."""

    def __init__(self, start: bytes, file: IO[bytes]) -> None:
        self._start, self._file = start, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._start[: len(buffer)] or self._file.read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def text_faults(values: Sequence[str | None]) -> list[int]:
    """Return the places of texts that are not valid UTF-8: with a lone surrogate or an undecodable byte."""
    try:
        "".join(value for value in values if value).encode()
    except UnicodeEncodeError:
        return [place for place, value in enumerate(values) if value and SURROGATE.search(value)]
    return []


def not_encoded(where: str, line: int, column: str, value: str) -> DataError:
    """The error for a field with bytes of another encoding."""
    byte = ord(ESCAPED_BYTE.findall(value)[0]) - 0xDC00
    return DataError(
        f"{where}, line {line}, column {column!r}: byte 0x{byte:02x} is not UTF-8: set --encoding (latin-1, cp1252 or "
        "utf-16), or correct the file."
    )
