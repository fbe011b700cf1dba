"""Lists of uids in every form that participants write, read in pieces and sorted on disk in bounded memory.

npy: `(u8,u8)`, (n, 2) whole numbers of 64 bits, text of hex digits (`S32`, `U32`), either byte order. txt, csv: one uid per line,
or a column `uid`. parquet: a column `uid` of text, of 16 bytes, or of two whole numbers. Hex is read as the reference's
`int(uid, 16)` reads it: upper case, leading zeros left out, `0x`. Repeats are kept: they are the participant's weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import text_tables, uid, uid_values
from datacomp_core.errors import DataError

AT_ONCE = 1 << 22
TEXT_BYTES = 1 << 26
SUFFIXES = (".npy", ".txt", ".csv", ".tsv", ".parquet")
FULL = re.compile(r"(0[xX])?[0-9a-fA-F]{32}")
LIKE_A_NAME, LIKE_A_UID = 8, 24
"""Digits: a first line with this few before a second with this many may be a header, such as pandas' `0`."""


def read(files: Sequence[Path]) -> Iterator[uid.Uids]:
    """All uids of some files, piece by piece, in their order. DataError names the file, the row and the value that is not a
    uid."""
    for file in files:
        reader = {".npy": _npy, ".parquet": _parquet}.get(file.suffix.lower(), _text)
        try:
            yield from reader(file)
        except (OSError, EOFError) as problem:
            raise DataError(f"{file} cannot be read as a list of uids: {problem}") from problem


def _npy(file: Path) -> Iterator[uid.Uids]:
    with file.open("rb") as data:
        shape, fortran, dtype = _header(data, file)
        start = data.tell()
    if dtype.hasobject:
        raise DataError(f"{file} contains Python objects, which are not loaded: save it as an array of dtype u8,u8.")
    uid_values.require_uids(shape, dtype, str(file))
    size, there = math.prod(shape) * dtype.itemsize, file.stat().st_size
    if there < start + size:
        raise DataError(f"{file} is truncated: it ends before the {shape[0]:,} uids that its header states; write it again.")
    if there > start + size:
        raise DataError(f"{file} continues after its {shape[0]:,} uids: it is damaged, or two files in one; write it again.")
    if not size:
        return
    rows: Any = np.memmap(file, dtype, "r", start, tuple(shape), order="F" if fortran else "C")
    for begin in range(0, shape[0], AT_ONCE):
        yield uid_values.packed(rows[begin : begin + AT_ONCE], str(file), begin)


def _header(data: IO[bytes], file: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(data)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(data)
    except Exception as problem:  # numpy's reader of headers raises a dozen kinds on bad bytes, tokenize's own among them
        raise DataError(f"{file} is not an npy file: {problem}") from problem
    if any(length < 0 for length in shape):
        raise DataError(f"{file} is not an npy file: its header says that its shape is {shape}.")
    return shape, fortran, dtype


def _text(file: Path) -> Iterator[uid.Uids]:
    """One column, where blank lines are allowed, or a table: its column `uid`, or without a header the one that has uids."""
    line = text_tables.first_line(file)
    names = [name.lower() for name in text_tables.names_of(line)]
    if len(names) < 2:
        yield from _lines(file)
        return
    header = "uid" in names
    wanted = "uid" if header else f"column {_place_of_uid(names, file) + 1}"
    if not header:
        names = [f"column {place + 1}" for place in range(len(names))]
    row = int(header)
    for frame in text_tables.tables(file, names, header=header):
        yield uid_values.from_columns([frame[wanted]], str(file), row)
        row += frame.height


def _place_of_uid(fields: Sequence[str], file: Path) -> int:
    """Which field of a first row is a uid. DataError if that cannot be told: keys and numbers are hex digits, too."""
    places = [place for place, field in enumerate(fields) if FULL.fullmatch(field)]
    if len(places) != 1:
        raise DataError(
            f"{file}, row 1: {uid_values.shown(', '.join(fields))} has {len(fields)} columns, none of which is named `uid`, and "
            f"{len(places) or 'none'} of them with 32 hex digits: write a header that names the column `uid`, or a uid a line."
        )
    return places[0]


def _lines(file: Path) -> Iterator[uid.Uids]:
    """A uid a line, in blocks of whole lines; `uid` in the first line is a header."""
    row = 0
    for number, block in enumerate(text_tables.line_blocks(file, TEXT_BYTES)):
        values = _values(block.removeprefix(b"\xef\xbb\xbf" if number == 0 else b""), file)
        if number == 0 and values[0].lower() == "uid":
            values, row = values[1:], 1
        elif number == 0:
            _require_no_header(values, file)
        filled = values != ""
        if filled.all():
            yield uid_values.parsed(values, str(file), row + 1)
        else:
            yield _without_blanks(values, np.flatnonzero(filled.to_numpy()), str(file), row)
        row += len(values)


def _values(block: bytes, file: Path) -> pl.Series:
    """The values of some lines, without white space and the quotes around them."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} cannot be read as text with a uid a line: {problem}") from problem
    values = pl.Series(text.removesuffix("\n").split("\n"), dtype=pl.String).str.strip_chars()
    return values.str.replace('^"(.*)"$', "$1").str.strip_chars() if '"' in text else values


def _require_no_header(values: pl.Series, file: Path) -> None:
    """DataError if the first line may be a name: one of hex digits would be counted as a uid."""
    first = values.filter(values != "").head(2).to_list()
    if len(first) == 2 and re.fullmatch(f"[0-9a-fA-F]{{1,{LIKE_A_NAME}}}", first[0]) and len(first[1]) >= LIKE_A_UID:
        raise DataError(
            f"{file}, row 1: {first[0]!r} may be the name of the column or a uid: name the column `uid`, or write the uid with "
            "all 32 hex digits."
        )


def _without_blanks(values: pl.Series, places: npt.NDArray[np.int64], where: str, row: int) -> uid.Uids:
    kept = values.gather(places)
    try:
        return uid_values.parsed(kept, where, 1)
    except DataError:
        for place, value in zip(places.tolist(), kept, strict=True):
            uid_values.parsed(pl.Series([value]), where, row + 1 + place)
        raise


def _parquet(file: Path) -> Iterator[uid.Uids]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        wanted = _columns(table.schema_arrow, file)
        row = 0
        for batch in table.iter_batches(batch_size=AT_ONCE, columns=wanted):
            yield uid_values.from_columns([pl.Series(name, batch.column(name)) for name in wanted], str(file), row)
            row += batch.num_rows
    except pa.ArrowException as problem:
        raise DataError(f"{file} is not a parquet file: {str(problem).splitlines()[0]}") from problem


def _columns(schema: Any, file: Path) -> Sequence[str]:
    """The column `uid`, or the two of its halves, or what there is: one column, or two of 64 bits without a sign."""
    names: list[str] = schema.names
    if found := uid_values.columns_of(names):
        return found
    if len(names) == 1 or (len(names) == 2 and all(str(kind) == "uint64" for kind in schema.types)):
        return names
    raise DataError(f"{file} has no column `uid`; it has {', '.join(names) or 'no columns'}.")


def sort_to(pieces: Iterable[uid.Uids], target: Path) -> tuple[int, int]:
    """Write all uids as one sorted subset file, repeats kept: `(rows, distinct uids)`. Runs are beside `target` meanwhile.

    Stretches that are sorted already go on in one run, so a sorted list is written once and never sorted.
    """
    from datacomp_core.sorted_runs import OpenRun, merge

    runs: list[OpenRun] = []
    with ExitStack() as opened:
        for some in chain(_at_once(pieces), [np.empty(0, uid.DTYPE)]):
            ordered = uid.sort(some)
            if not runs or not runs[-1].takes(ordered):
                opened.close()
                runs.append(OpenRun(target.with_name(f"{target.stem}.run{len(runs):06d}.npy")))
                opened.callback(runs[-1].close)
            runs[-1].append(ordered)
    if len(runs) == 1:
        runs[0].path.replace(target)
        return runs[0].rows, runs[0].num_unique
    made = merge([run.path for run in runs], target)
    for run in runs:
        run.path.unlink()
    return made


def _at_once(pieces: Iterable[uid.Uids]) -> Iterator[uid.Uids]:
    """The same uids in pieces of about AT_ONCE, however small they come."""
    held: list[uid.Uids] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= AT_ONCE:
            yield held[0] if len(held) == 1 else np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)
