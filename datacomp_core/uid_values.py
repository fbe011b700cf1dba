"""Values of every form as uids: hex text, 16 bytes, pairs of 64-bit numbers, in arrays and in columns.

Hex is read as the reference's `int(uid, 16)` reads it: upper case, leading zeros left out, `0x`. DataError names where, the row
and the value that is not a uid.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import DataError

TWO_COLUMNS = (("f0", "f1"), ("uid_high", "uid_low"), ("uid_hi", "uid_lo"), ("high", "low"), ("hi", "lo"), ("uid0", "uid1"))
"""Names of the halves, the high one first."""
HALVES: tuple[Any, ...] = (pl.UInt64, pl.Int64)
HEX = r"^[0-9a-f]{1,32}$"
SHOWN = 80


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
            f"{where}, row {first_row + row:,}: {shown(values[row])} is not a uid (up to 32 hex digits); "
            f"{int(bad.sum()):,} of the {len(values):,} rows read with it are not."
        )
    return uid.pack(plain.str.zfill(uid.HEX_DIGITS))


def shown(value: Any) -> str:
    """A value from outside, not longer than a line of a message."""
    return repr(f"{value[:SHOWN]}..." if isinstance(value, str) and len(value) > SHOWN else value)


def high_first(names: Sequence[str]) -> Sequence[str]:
    """Two names of halves, the high one first: as the names say, else as they stand."""
    known = {name.lower(): name for name in names}
    pair = next((pair for pair in TWO_COLUMNS if set(pair) == set(known)), None)
    return names if pair is None else [known[name] for name in pair]


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns of a table that have its uids: `uid`, or the two halves, the high one first, in any case; else none."""
    known = {name.lower(): name for name in reversed(names)}
    if "uid" in known:
        return ["uid" if "uid" in names else known["uid"]]
    return [known[name] for name in next((pair for pair in TWO_COLUMNS if set(pair) <= set(known)), ())]


def require_uids(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    if dtype.names is not None:
        halves = [dtype[name] for name in dtype.names]
        good = len(shape) == 1 and len(halves) == 2 and all(half.kind in "ui" and half.itemsize == 8 for half in halves)
    elif dtype.kind in "ui":
        good = len(shape) == 2 and shape[1] == 2 and dtype.itemsize == 8
    else:
        good = dtype.kind in "SU" and (len(shape) == 1 or shape[1:] == (1,))
    if not good:
        raise DataError(
            f"{where} has shape {shape} and dtype {dtype}; a list of uids is u8,u8 of shape (n,), whole numbers of 64 bits of "
            "shape (n, 2), or text of 32 hex digits."
        )


def from_array(rows: Any, where: str) -> uid.Uids:
    """The uids of an array in memory, of one of the forms of npy."""
    require_uids(rows.shape, rows.dtype, where)
    return packed(rows, where, 0)


def packed(rows: Any, where: str, begin: int) -> uid.Uids:
    kind = rows.dtype.kind
    if kind in "SU":
        rows = rows.reshape(-1)
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
    high, low = (rows[name] for name in high_first(rows.dtype.names)) if rows.dtype.names else (rows[:, 0], rows[:, 1])
    out["f0"], out["f1"] = (half.astype(half.dtype.newbyteorder("=")).view(np.uint64) for half in (high, low))
    return out


def _is_plain(rows: Any) -> bool:
    """Whether an array of pairs has the very bytes of a subset file."""
    there = [rows.dtype.fields[name][1] for name in high_first(rows.dtype.names)] if rows.dtype.names else [0, 8]
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


def from_columns(columns: list[pl.Series], where: str, row: int) -> uid.Uids:
    """Uids of one column (text, 16 bytes, two numbers in one) or of two columns of whole numbers."""
    first = columns[0]
    if len(columns) == 1 and isinstance(first.dtype, pl.Struct) and len(first.struct.fields) == 2:
        columns = [first.struct.field(name) for name in high_first(first.struct.fields)]
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
        missing = columns[0].is_null() | columns[1].is_null()
        if missing.any():
            raise DataError(
                f"{where}, row {row + 1 + int(missing.arg_max() or 0):,}: ({columns[0].filter(missing)[0]}, "
                f"{columns[1].filter(missing)[0]}) is not a uid: write two whole numbers."
            )
        out = np.empty(len(first), uid.DTYPE)
        for half, column in zip(("f0", "f1"), columns, strict=True):
            values = column.to_numpy()
            out[half] = values.view(np.uint64) if values.dtype == np.int64 else values
        return out
    raise DataError(f"{where}: the column {first.name!r} is {first.dtype}; write text, 16 bytes or two whole numbers of 64 bits.")


def _from_bytes(values: pl.Series, where: str, row: int) -> uid.Uids:
    sizes = values.bin.size()
    if not values.null_count() and not (sizes != 16).any():
        return np.frombuffer(uid.contents(values, 16), ">u8").astype(np.uint64).view(uid.DTYPE)
    if not values.null_count() and not (sizes == 16).any():
        with suppress(pl.exceptions.ComputeError):  # which is not text
            return parsed(values.cast(pl.String), where, row + 1)
    bad = int((sizes.fill_null(0) != 16).arg_max() or 0)
    raise DataError(f"{where}, row {row + bad + 1:,}: {values[bad]!r} is not a uid: write 16 bytes.")
