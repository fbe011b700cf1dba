"""Finds the tables in a folder and reads their rows as batches of a few columns. A batch has the wanted columns under our
names, as text if the file is text: `007`, `NA` and `1.10` are kept, and no type is guessed. A fault of a whole file is a
DataError with file and line; a fault of one row is listed in `faults`, and the consumer of the batch skips the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Spec
from datacomp_core.errors import DataError
from datacomp_core.store import Folder
from datacomp_core.text_tables import PACKED, UNREADABLE

ENDINGS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
BATCH_ROWS = 8192

Encoding = Literal["utf-8", "latin-1", "cp1252", "utf-16"]


class TableFormat(Spec):
    """How text tables (csv, tsv, jsonl) are written."""

    encoding: Encoding = Field(default="utf-8", description="Encoding of csv, tsv and jsonl files.")
    delimiter: str = Field(
        default="", max_length=1, description="Column separator of a csv. Empty: a comma, in .tsv files a tab."
    )
    quoting: Literal["checked", "trusted", "none"] = Field(
        default="checked",
        description="checked: a quoted field may span lines, but a field that seems to contain whole rows is rejected "
        '(a lone " at the start of a caption causes this); trusted: every field is accepted; none: " is a plain character.',
    )
    header: tuple[str, ...] = Field(default=(), description="Names of the columns, if csv and tsv files have no header line.")


class Fault(NamedTuple):
    """One unusable row: its line (or row) in the file, and the reason that it is counted under."""

    row: int
    reason: str


@dataclass
class TableBatch:
    """Rows of one file under our column names, with the line (text) or row (parquet) that each begins at."""

    table: pl.DataFrame
    lines: Sequence[int]
    faults: list[Fault] = field(default_factory=list)
    """`row` is the position in `table`."""


@dataclass(frozen=True)
class TableRequest:
    """The columns to read (our column name -> the file's), and the format of text files."""

    columns: dict[str, str]
    how: TableFormat
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our column name -> the spec field that names it, if that is not one of `columns`."""

    def check(self, there: Sequence[str], where: str, hint: str = "") -> None:
        """DataError if a column is missing or duplicated."""
        for ours, theirs in self.columns.items():
            found = list(there).count(theirs)
            if found != 1:
                what = f"{found} columns" if found else "no column"
                named = self.fields.get(ours, "")
                option = (named or ours).replace("_", "-")
                place = named or f"columns: {{{ours}: NAME}}"
                raise DataError(
                    f"{where} has {what} {theirs!r} for {ours!r}; it has {', '.join(map(str, there)) or 'no columns'}. "
                    f"Name the column with --{option} NAME (in a form: `{place}`)." + (f" {hint}" if hint else "")
                )


def ending_of(name: str) -> str:
    """Return the extension of a table's name in lower case, `.csv` or `.csv.gz`; empty if it is not a table."""
    low = name.lower()
    packed = next((p for p in PACKED if low.endswith(p)), "")
    ending = next((e for e in ENDINGS if low.removesuffix(packed).endswith(e)), "")
    return ending + packed if ending and not (packed and ending == ".parquet") else ""


def format_of(name: str) -> str:
    """parquet, csv, tsv or jsonl; empty if the name is not a table's."""
    ending = ending_of(name)
    return next((kind for start, kind in ENDINGS.items() if ending.startswith(start)), "")


def is_hidden(name: str) -> bool:
    """Return whether this is a side file of other tools: `.ipynb_checkpoints/`, `._x`, `_metadata`, `_SUCCESS`, `__MACOSX/`."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def source_files(source: str) -> tuple[Folder, list[str], int]:
    """Return a folder, its tables by relative path in order, and the number of skipped hidden files. DataError if there is no
    table, or tables of several kinds.
    """
    if not source:
        raise DataError("No source is given: set `source` to a folder or bucket of parquet, csv, tsv or jsonl files.")
    folder = Folder(source)
    place, _, name = folder.url.rpartition("/")
    if ending_of(name) and Folder(place or "/").is_file(name):
        return Folder(place or "/"), [name], 0
    tables = [name for name in folder.files() if ending_of(name)]
    found = [name for name in tables if not is_hidden(name)]
    kinds = {format_of(name) for name in found}
    if not tables and not folder.exists():
        raise DataError(f"{source} is not there: give a folder or bucket of parquet, csv, tsv or jsonl files.")
    if len(kinds) != 1:
        what = f"files of several kinds ({', '.join(sorted(kinds))})" if kinds else "no table"
        hidden = f" ({len(tables)} hidden ones are not read)" if tables and not found else ""
        raise DataError(f"{source} has {what}{hidden}: give a folder of parquet, csv, tsv or jsonl files.")
    return folder, found, len(tables) - len(found)


def batches(folder: Folder, name: str, asked: TableRequest) -> Iterator[TableBatch]:
    """The rows of one table. DataError names the file, and the line where there is one, that cannot be read."""
    from datacomp_core.pool import delimited, json_lines, parquet_table

    kind, where = format_of(name), folder.at(name)
    packed = next((unpack for ending, unpack in PACKED.items() if name.lower().endswith(ending)), None)
    with folder.open(name) as raw:
        file = packed(raw) if packed else raw
        try:
            if kind == "parquet":
                yield from parquet_table.read(file, where, asked)
            elif kind == "jsonl":
                yield from json_lines.read(file, where, asked)
            else:
                yield from delimited.read(file, where, asked, asked.how.delimiter or ("\t" if kind == "tsv" else ","))
        except UNREADABLE as problem:
            raise DataError(f"{where} cannot be read completely ({problem}): correct the file or fetch it again.") from problem
