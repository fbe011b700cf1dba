"""128-bit uids: 32 hex digits in tables, `(u8,u8)` in subset files, as the reference writes them.

A subset is a sorted multiset: a repeated uid is deliberate up-weighting, so nothing here ever drops a repeat unasked.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError

DTYPE = np.dtype("u8,u8")
Uids = npt.NDArray[np.void]
CHECKED_AT_ONCE = 1 << 22


def uid_of(url: str, text: str | None) -> str:
    """The stable uid of a pair that has none: md5 over url and caption, 32 hex digits."""
    payload = url.encode("utf-8", "surrogatepass") + b"\0" + (text or "").encode("utf-8", "surrogatepass")
    return hashlib.md5(payload, usedforsecurity=False).hexdigest()


def pack(uids: pl.Series) -> Uids:
    """Hex text to `(u8,u8)`, shape (n,), order kept. DataError if one is not up to 32 hex digits.

    The reference takes `int(uid[:16], 16)` and `int(uid[16:32], 16)`; the same values come out for 32-digit uids.
    """
    high = uids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    low = uids.str.slice(16, 16).str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    bad = high.is_null() | low.is_null() | (uids.str.len_bytes() != 32)
    if bad.any():
        raise DataError(f"{uids.filter(bad)[0]!r} is not a uid: 32 hex digits are wanted ({int(bad.sum())} such rows).")
    packed = np.empty(len(uids), DTYPE)
    packed["f0"], packed["f1"] = high.to_numpy(), low.to_numpy()
    return packed


def unpack(packed: Uids) -> pl.Series:
    """`(u8,u8)`, shape (n,), to hex text of 32 digits."""
    as_bytes = np.empty((len(packed), 2), ">u8")
    as_bytes[:, 0], as_bytes[:, 1] = packed["f0"], packed["f1"]
    text = as_bytes.tobytes().hex()
    return pl.Series("uid", [text[i : i + 32] for i in range(0, len(text), 32)], dtype=pl.String)


def sort(packed: Uids) -> Uids:
    """Lexicographically sorted copy, repeats kept."""
    return packed[np.lexsort((packed["f1"], packed["f0"]))]


def num_unique(packed: Uids) -> int:
    """Distinct uids in a sorted array."""
    return int(len(packed) and 1 + np.count_nonzero(packed[1:] != packed[:-1]))


def subset_bytes(packed: Uids) -> bytes:
    """The subset file: npy, dtype `u8,u8`, sorted (the reference's `np.save` of a sorted array)."""
    buffer = io.BytesIO()
    np.save(buffer, sort(packed), allow_pickle=False)
    return buffer.getvalue()


def read_subset(data: bytes, where: str) -> Uids:
    """A subset file's uids. DataError if it is none, or not sorted."""
    return _loaded(io.BytesIO(data), where)


def open_subset(path: Path) -> Uids:
    """A local subset file's uids, mapped and not read, so that one larger than memory can be used. DataError as above."""
    return _loaded(path, str(path))


def _loaded(source: io.BytesIO | Path, where: str) -> Uids:
    try:
        packed = np.load(source, mmap_mode="r" if isinstance(source, Path) else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as problem:
        raise DataError(f"{where} is not a subset file (npy of dtype u8,u8): {problem}") from problem
    if packed.dtype != DTYPE or packed.ndim != 1:
        raise DataError(f"{where} has dtype {packed.dtype} and {packed.ndim} dimensions; a subset file is one of dtype u8,u8.")
    for begin in range(0, len(packed), CHECKED_AT_ONCE):
        piece = packed[begin : begin + CHECKED_AT_ONCE + 1]
        high, low = piece["f0"], piece["f1"]
        if not np.all((high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] <= low[1:]))):
            raise DataError(f"{where} is not sorted, and a subset file must be: write it again with `datacomp filter`.")
    return packed
