"""csv and tsv from outside, packed or not, read as text in pieces of bounded memory. A field between quotes may span lines.

A lone quote at the start of a field would make the rows after it part of the field. A field over several lines, one of which
looks like a row, is therefore an error.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError

BLOCK_BYTES = 1 << 24
MAX_HEADER = 1 << 20
SEPARATORS = ("\t", ";", ",")
BOM = "\ufeff"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
LIKE_A_KEY = re.compile(r'\s*"?((?=\S*[0-9])[0-9a-fA-F]{5,}|[a-zA-Z][a-zA-Z0-9+.-]*://\S+?)"?\s*')
PACKED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""The errors from reading a file that is truncated, damaged, or not packed as its name says."""


def open_unpacked(file: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends in .gz, .bz2 or .xz."""
    unpack = PACKED.get(file.suffix.lower())
    return unpack(file) if unpack else file.open("rb")


def first_line(file: Path) -> str:
    """The first line, without its end and a byte order mark. DataError if it is not text."""
    with open_unpacked(file) as data:
        line = data.readline(MAX_HEADER)
    _require_no_utf16(line, file)
    try:
        text = line.decode("utf-8").removeprefix(BOM).rstrip("\r\n")
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} is not text in UTF-8: {problem}.") from problem
    if "\r" in text:
        raise DataError(f"{file} ends its lines with carriage returns alone, as old systems did: write it with line feeds.")
    return text


def _require_no_utf16(start: bytes, file: Path) -> None:
    if start.startswith(UTF16) or b"\0" in start[:MAX_HEADER]:
        raise DataError(f"{file} seems to be text in UTF-16, not UTF-8: write it again as UTF-8 (iconv -f UTF-16 -t UTF-8).")


def separator_of(line: str) -> str:
    """Return the separator of the columns; empty for a line that has one column and no quotes."""
    return next((one for one in SEPARATORS if one in line), "," if '"' in line else "")


def names_of(line: str) -> list[str]:
    """The fields of a header."""
    return [name.strip() for name in next(csv.reader([line], delimiter=separator_of(line) or ","), [])]


def tables(file: Path, names: Sequence[str], *, header: bool) -> Iterator[pl.DataFrame]:
    """All rows, piece by piece, as text; a field that is empty is missing. DataError says which row is wrong."""
    import pyarrow as pa
    import pyarrow.csv as pc

    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise DataError(f"{file} has two columns named {twice[0]!r}: rename one of them.")
    separator = separator_of(first_line(file)) or ","
    read = pc.ReadOptions(block_size=BLOCK_BYTES, column_names=list(names), skip_rows=int(header), use_threads=False)
    parse = pc.ParseOptions(delimiter=separator, newlines_in_values=True)
    convert = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), check_utf8=False)
    try:
        with open_unpacked(file) as data:
            for batch in pc.open_csv(data, read, parse, convert):
                found: Any = pl.from_arrow(batch)
                frame = found.select(_as_text(column) for column in found)
                _require_no_swallowed_rows(frame, separator, file)
                yield frame
    except pa.ArrowInvalid as problem:
        if "Empty CSV file" in str(problem):
            return
        raise DataError(f"{file} cannot be read as a table of text: {str(problem).splitlines()[0]}") from problem


def _as_text(column: pl.Series) -> pl.Series:
    """A column with a value that is not UTF-8 (a caption's) stays bytes."""
    try:
        text = column.cast(pl.String)
    except pl.exceptions.ComputeError:  # polars' own `strict=False` does not cover it
        return column.set(column.bin.size() == 0, None)
    return text.set(text == "", None)


def _require_no_swallowed_rows(frame: pl.DataFrame, separator: str, file: Path) -> None:
    for column in frame:
        several = column.str.contains("\n", literal=True) if column.dtype == pl.String else column.bin.contains(b"\n")
        for found in column.filter(several.fill_null(False)):
            value = found if isinstance(found, str) else found.decode("utf-8", "replace")
            rows = [line for line in value.split("\n")[1:] if _is_like_a_row(line.split(separator), frame.width)]
            if rows:
                raise DataError(
                    f"{file}: a quote at the start of a field takes in the row {rows[0][:80]!r}: write a quote that is a mere "
                    'character as "" between quotes.'
                )


def _is_like_a_row(fields: Sequence[str], width: int) -> bool:
    """Whether there are enough fields, one of which is a key or a url and nothing else."""
    return len(fields) >= width and any(LIKE_A_KEY.fullmatch(one) for one in fields)


def line_blocks(file: Path, size: int) -> Iterator[bytes]:
    """A file of text, packed or not, in pieces of whole lines."""
    with open_unpacked(file) as data:
        left = b""
        while block := data.read(size):
            _require_no_utf16(block[:2], file)
            block = left + block
            end = block.rfind(b"\n") + 1
            if end:
                yield block[:end]
            left = block[end:]
            if len(left) > size:
                raise DataError(f"{file} has a line of over {size >> 20} MB, so it is not text with one row per line.")
        if left:
            yield left
