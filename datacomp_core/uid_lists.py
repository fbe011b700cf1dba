"""Lists of uids in every form that participants write, read in pieces and sorted on disk in bounded memory.

npy: `(u8,u8)`, (n, 2) whole numbers of 64 bits, text of hex digits (`S32`, `U32`), either byte order. txt, csv: a uid a line,
or a column `uid`. parquet: a column `uid` of text, of 16 bytes, or of two whole numbers. Hex is read as the reference's
`int(uid, 16)` reads it: upper case, leading zeros left out, `0x`. Repeats are kept: they are the participant's weights.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import text_tables, uid
from datacomp_core.errors import DataError

AT_ONCE = 1 << 22
TEXT_BYTES = 1 << 26
SUFFIXES = (".npy", ".txt", ".csv", ".tsv", ".parquet")
TWO_COLUMNS = (("f0", "f1"), ("uid_high", "uid_low"), ("high", "low"), ("uid0", "uid1"))
HALVES: tuple[Any, ...] = (pl.UInt64, pl.Int64)
HEX = r"^[0-9a-f]{1,32}$"


def read(files: Sequence[Path]) -> Iterator[uid.Uids]:
    """All uids of some files, piece by piece, in their order. DataError names the file, the row and the value that is no uid."""
    for file in files:
        reader = {".npy": _npy, ".parquet": _parquet}.get(file.suffix.lower(), _text)
        try:
            yield from reader(file)
        except (OSError, EOFError) as problem:
            raise DataError(f"{file} cannot be read as a list of uids: {problem}") from problem


def parsed(values: pl.Series, where: str, first_row: int) -> uid.Uids:
    """Hex text as uids; `first_row` is the row of the first value, counted from 1."""
    if not len(values):
        return np.empty(0, uid.DTYPE)
    if not values.null_count() and not (values.str.len_bytes() != uid.HEX_DIGITS).any():
        try:
            return uid.pack(values)
        except DataError:
            pass
    plain = values.str.strip_chars().str.to_lowercase().str.strip_prefix("0x")
    bad = ~plain.str.contains(HEX).fill_null(False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{where}, row {first_row + row:,}: {values[row]!r} is not a uid (up to 32 hex digits); "
            f"{int(bad.sum()):,} of the {len(values):,} rows read with it are not."
        )
    return uid.pack(plain.str.zfill(uid.HEX_DIGITS))


def _npy(file: Path) -> Iterator[uid.Uids]:
    with file.open("rb") as data:
        shape, fortran, dtype = _header(data, file)
        start = data.tell()
    if dtype.hasobject:
        raise DataError(f"{file} contains Python objects, which are not loaded: save it as an array of dtype u8,u8.")
    _require_uids(shape, dtype, str(file))
    size, there = math.prod(shape) * dtype.itemsize, file.stat().st_size
    if there < start + size:
        raise DataError(f"{file} is truncated: its header says {shape[0]:,} uids, and it ends before.")
    if there > start + size:
        raise DataError(f"{file} goes on after its {shape[0]:,} uids: it is damaged, or two files in one; write it again.")
    if not size:
        return
    rows: Any = np.memmap(file, dtype, "r", start, tuple(shape), order="F" if fortran else "C")
    for begin in range(0, shape[0], AT_ONCE):
        yield _packed(rows[begin : begin + AT_ONCE], str(file), begin)


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


def _require_uids(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    if dtype.names is not None:
        halves = [dtype[name] for name in dtype.names]
        good = len(shape) == 1 and len(halves) == 2 and all(half.kind in "ui" and half.itemsize == 8 for half in halves)
    elif dtype.kind in "ui":
        good = len(shape) == 2 and shape[1] == 2 and dtype.itemsize == 8
    else:
        good = dtype.kind in "SU" and len(shape) == 1
    if not good:
        raise DataError(
            f"{where} has shape {shape} and dtype {dtype}; a list of uids is u8,u8 of shape (n,), whole numbers of 64 bits of "
            "shape (n, 2), or text of 32 hex digits."
        )


def from_array(rows: Any, where: str) -> uid.Uids:
    """The uids of an array in memory, of one of the forms of npy."""
    _require_uids(rows.shape, rows.dtype, where)
    return _packed(rows, where, 0)


def _packed(rows: Any, where: str, begin: int) -> uid.Uids:
    kind = rows.dtype.kind
    if kind in "SU":
        if (packed := _packed_digits(rows)) is not None:
            return packed
        try:
            text = rows.astype(str) if kind == "S" else rows.astype(rows.dtype.newbyteorder("="))
        except UnicodeDecodeError:
            raise DataError(
                f"{where} has text of dtype {rows.dtype} that is not hex digits; raw bytes are not read, as their order is not "
                "known: save dtype u8,u8, or 32 hex digits."
            ) from None
        return parsed(pl.Series(text.tolist(), dtype=pl.String), where, begin + 1)
    if _is_plain(rows):
        return rows.view(np.uint8).reshape(-1).view(uid.DTYPE)
    out = np.empty(len(rows), uid.DTYPE)
    high, low = (rows[name] for name in rows.dtype.names) if rows.dtype.names else (rows[:, 0], rows[:, 1])
    out["f0"], out["f1"] = (half.astype(half.dtype.newbyteorder("=")).view(np.uint64) for half in (high, low))
    return out


def _is_plain(rows: Any) -> bool:
    """Whether an array of pairs has the very bytes of a subset file."""
    there = [rows.dtype.fields[name][1] for name in rows.dtype.names] if rows.dtype.names else [0, 8]
    return rows.dtype.isnative and rows.flags.c_contiguous and there == [0, 8] and rows.nbytes == 16 * len(rows)


def _packed_digits(rows: Any) -> uid.Uids | None:
    """Text of 32 hex digits each, read without making an object of each; None if that is not what it is."""
    if rows.dtype not in (np.dtype("S32"), np.dtype("<U32")) or not rows.flags.c_contiguous:
        return None
    letters: Any = rows.view(np.uint8 if rows.dtype.kind == "S" else np.uint32)
    if rows.dtype.kind == "U":
        if letters.max(initial=0) > ord("f"):
            return None
        letters = letters.astype(np.uint8)
    try:
        numbers = np.frombuffer(binascii.unhexlify(letters.data), ">u8").astype(np.uint64)
    except binascii.Error:
        return None
    return numbers.view(uid.DTYPE)


def _text(file: Path) -> Iterator[uid.Uids]:
    """One column, where blank lines are allowed, or a table: its column `uid`, or the first if there is no header."""
    line = text_tables.first_line(file)
    if not text_tables.separator_of(line):
        yield from _lines(file)
        return
    names = [name.lower() for name in text_tables.names_of(line)]
    header = "uid" in names
    if not header:
        names = [f"column {place + 1}" for place in range(len(names))]
    row = int(header)
    for frame in text_tables.tables(file, names, header=header):
        values = frame["uid" if header else names[0]]
        yield from_columns([values], str(file), row)
        row += len(values)


def _lines(file: Path) -> Iterator[uid.Uids]:
    """A uid a line, in blocks of whole lines; `uid` in the first line is a header."""
    row = 0
    for number, block in enumerate(line_blocks(file, TEXT_BYTES)):
        try:
            text = block.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").decode("utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(f"{file} cannot be read as text with a uid a line: {problem}") from problem
        values = pl.Series(text.removesuffix("\n").split("\n"), dtype=pl.String).str.strip_chars()
        if number == 0 and values[0].lower() == "uid":
            values, row = values[1:], 1
        filled = values != ""
        if filled.all():
            yield parsed(values, str(file), row + 1)
        else:
            yield _without_blanks(values, np.flatnonzero(filled.to_numpy()), str(file), row)
        row += len(values)


def _without_blanks(values: pl.Series, places: npt.NDArray[np.int64], where: str, row: int) -> uid.Uids:
    kept = values.gather(places)
    try:
        return parsed(kept, where, 1)
    except DataError:
        for place, value in zip(places.tolist(), kept, strict=True):
            parsed(pl.Series([value]), where, row + 1 + place)
        raise


def line_blocks(file: Path, size: int) -> Iterator[bytes]:
    """A file of text in pieces of whole lines."""
    with file.open("rb") as data:
        left = b""
        while block := data.read(size):
            block = left + block
            end = block.rfind(b"\n") + 1
            if end:
                yield block[:end]
            left = block[end:]
            if len(left) > size:
                raise DataError(f"{file} has a line of over {size >> 20} MB, so it is not text with a row a line.")
        if left:
            yield left


def _parquet(file: Path) -> Iterator[uid.Uids]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        pair = next((pair for pair in TWO_COLUMNS if set(pair) <= set(names)), None)
        wanted = ["uid"] if "uid" in names else list(pair) if pair else names if len(names) == 1 else None
        if wanted is None:
            raise DataError(f"{file} has no column `uid`; it has {', '.join(names) or 'no columns'}.")
        row = 0
        for batch in table.iter_batches(batch_size=AT_ONCE, columns=wanted):
            yield from_columns([pl.Series(name, batch.column(name)) for name in wanted], str(file), row)
            row += batch.num_rows
    except pa.ArrowException as problem:
        raise DataError(f"{file} is not a parquet file: {str(problem).splitlines()[0]}") from problem


def from_columns(columns: list[pl.Series], where: str, row: int) -> uid.Uids:
    """Uids of one column (text, 16 bytes, two numbers in one) or of two columns of whole numbers."""
    first = columns[0]
    if len(columns) == 1 and isinstance(first.dtype, pl.Struct) and len(first.struct.fields) == 2:
        columns = [first.struct.field(name) for name in first.struct.fields]
    elif len(columns) == 1 and isinstance(first.dtype, (pl.Array, pl.List)):
        if (first.list.len() if isinstance(first.dtype, pl.List) else pl.Series([first.dtype.size])).ne(2).any():
            raise DataError(f"{where}: the lists in the column {first.name!r} do not have two numbers each.")
        columns = [first.arr.get(n) if isinstance(first.dtype, pl.Array) else first.list.get(n) for n in (0, 1)]
    if len(columns) == 1:
        if first.dtype == pl.String or isinstance(first.dtype, (pl.Categorical, pl.Enum)):
            return parsed(first.cast(pl.String), where, row + 1)
        if first.dtype == pl.Binary:
            return _from_bytes(first, where, row)
    elif all(column.dtype in HALVES for column in columns):
        if sum(column.null_count() for column in columns):
            raise DataError(f"{where}: a uid is missing in a row between {row + 1:,} and {row + len(first):,}.")
        out = np.empty(len(first), uid.DTYPE)
        for half, column in zip(("f0", "f1"), columns, strict=True):
            values = column.to_numpy()
            out[half] = values.view(np.uint64) if values.dtype == np.int64 else values
        return out
    raise DataError(
        f"{where}: the column {first.name!r} is {first.dtype}; text, 16 bytes or two whole numbers of 64 bits are wanted."
    )


def _from_bytes(values: pl.Series, where: str, row: int) -> uid.Uids:
    sizes = values.bin.size()
    if not values.null_count() and not (sizes != 16).any():
        return np.frombuffer(uid.contents(values, 16), ">u8").astype(np.uint64).view(uid.DTYPE)
    if not values.null_count() and not (sizes == 16).any():
        return parsed(values.cast(pl.String, strict=False), where, row + 1)
    bad = int((sizes.fill_null(0) != 16).arg_max() or 0)
    raise DataError(f"{where}, row {row + bad + 1:,}: {values[bad]!r} is not a uid: 16 bytes are wanted.")


def sort_to(pieces: Iterable[uid.Uids], target: Path) -> tuple[int, int]:
    """Write all uids as one sorted subset file, repeats kept: `(rows, distinct uids)`. Runs lie beside `target` meanwhile.

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
