"""128-bit uids: 32 hex digits in tables, `(u8,u8)` in subset files, as the reference writes them.

A subset is a sorted multiset: a repeated uid is deliberate up-weighting, so nothing here ever drops a repeat unasked.
"""

from __future__ import annotations

import binascii
import hashlib
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError

DTYPE = np.dtype("u8,u8")
Uids = npt.NDArray[np.void]
Positions = npt.NDArray[np.int64]
CHECKED_AT_ONCE = 1 << 22
HEX_DIGITS = 32
PACKED_AT_ONCE = 1 << 15
GLANCE = 1 << 10
MERGED_AT_ONCE = 128
"""Of more pieces a sort is as fast as a merge."""


def uid_of(url: str, text: str | None) -> str:
    """The stable uid of a pair that has none: md5 over url and caption, 32 hex digits."""
    payload = url.encode("utf-8", "surrogatepass") + b"\0" + (text or "").encode("utf-8", "surrogatepass")
    return hashlib.md5(payload, usedforsecurity=False).hexdigest()


DIGEST_MODULUS = 1 << 256


def digest(uids: Iterable[str]) -> int:
    """A hash of a multiset of uids that does not depend on their order: the sum of their sha256 modulo 2^256.

    Digests of disjoint parts add up to the digest of the whole, so a pool of any size has one without being sorted.
    """
    return sum(int.from_bytes(hashlib.sha256(uid.encode()).digest(), "big") for uid in uids) % DIGEST_MODULUS


def pack(uids: pl.Series, where: str = "") -> Uids:
    """Hex text to `(u8,u8)`, shape (n,), order kept. DataError if one is not of 32 hex digits; it names `where`.

    The reference takes `int(uid[:16], 16)` and `int(uid[16:32], 16)`; the same values come out for 32-digit uids.
    """
    if not len(uids):
        return np.empty(0, DTYPE)
    if not uids.null_count() and not (uids.str.len_bytes() != HEX_DIGITS).any():
        numbers = np.empty(2 * len(uids), np.uint64)
        with suppress(binascii.Error):
            for begin in range(0, len(uids), PACKED_AT_ONCE):
                some = binascii.unhexlify(_digits(uids[begin : begin + PACKED_AT_ONCE]))
                numbers[2 * begin : 2 * (begin + PACKED_AT_ONCE)] = np.frombuffer(some, ">u8")
            return numbers.view(DTYPE)
    bad = uids.is_null() | ~uids.str.contains(r"^[0-9a-fA-F]{32}$").fill_null(False)
    file = f"{where}: " if where else ""
    raise DataError(f"{file}{uids.filter(bad)[0]!r} is not a uid: write 32 hex digits ({int(bad.sum())} such rows).")


def _digits(uids: pl.Series) -> memoryview:
    """All digits in a row, for uids of 32 bytes each."""
    return contents(uids, HEX_DIGITS)


def contents(values: pl.Series, width: int) -> memoryview:
    """The bytes of a column of text or bytes, one value behind the other. Each has `width` bytes, and none is missing."""
    column: Any = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    begin = int(np.frombuffer(column.buffers()[1], np.int64)[column.offset])
    return memoryview(column.buffers()[2])[begin : begin + width * len(values)]


def unpack(packed: Uids) -> pl.Series:
    """`(u8,u8)`, shape (n,), to hex text of 32 digits."""
    as_bytes = np.empty((len(packed), 2), ">u8")
    as_bytes[:, 0], as_bytes[:, 1] = packed["f0"], packed["f1"]
    text = as_bytes.tobytes().hex()
    return pl.Series("uid", [text[i : i + 32] for i in range(0, len(text), 32)], dtype=pl.String)


def sort(packed: Uids) -> Uids:
    """Lexicographically sorted copy, repeats kept."""
    begins_sorted = is_sorted(packed[:GLANCE])  # most that is not sorted shows it at once
    return packed.copy() if begins_sorted and is_sorted(packed) else take(packed, order(packed))


def take(packed: Uids, places: Positions) -> Uids:
    """The uids at some places: as items of 16 bytes, which numpy moves faster than pairs."""
    return np.take(packed.view("V16"), places).view(DTYPE)


def order(packed: Uids) -> Positions:
    """The places that sort it lexicographically.

    Numbers are sorted several times faster than pairs or places: the high words go, with each one's place in its last bits. Who
    ties in what is left of them is put right after: of random uids hardly any do, and uids that repeat are in order already.
    """
    bits = max(len(packed) - 1, 1).bit_length()
    place = np.uint64((1 << bits) - 1)
    keys = packed["f0"] & ~place
    keys |= np.arange(len(packed), dtype=np.uint64)
    keys.sort()
    ordered = (keys & place).view(np.int64)
    keys >>= np.uint64(bits)
    same = keys[1:] == keys[:-1]
    _settle(packed, ordered, np.flatnonzero(same))
    return ordered


def merge_order(packed: Uids) -> Positions:
    """The order that sorts consecutive sorted stretches. A merge is several times faster than a sort."""
    high = np.ascontiguousarray(packed["f0"])
    ordered = np.argsort(high, kind="stable")  # numpy finds the stretches and merges them
    high = high[ordered]
    _settle(packed, ordered, np.flatnonzero(high[1:] == high[:-1]))
    return ordered


def merged(pieces: Sequence[Uids]) -> Uids:
    """Sorted pieces as one sorted array, repeats kept."""
    if len(pieces) == 1:
        return pieces[0]
    whole = np.concatenate([np.empty(0, DTYPE), *pieces])
    return take(whole, merge_order(whole)) if len(pieces) <= MERGED_AT_ONCE else sort(whole)


def _settle(packed: Uids, ordered: Positions, ties: Positions) -> None:
    """Sort again, in place, the groups of ties that are not in order. `ties`: the places that tie with the next one."""
    one, other = ordered[ties], ordered[ties + 1]
    high, low = packed["f0"], packed["f1"]
    wrong = (high[one] > high[other]) | ((high[one] == high[other]) & (low[one] > low[other]))
    if not wrong.any():
        return
    starts = np.flatnonzero(np.append(True, np.diff(ties) != 1))  # ties that follow one another are one group
    begins, ends = ties[starts], ties[np.append(starts[1:], len(ties)) - 1] + 2
    groups = np.unique(np.searchsorted(begins, ties[wrong], "right") - 1)
    sizes = (ends - begins)[groups]
    tied = np.arange(sizes.sum()) + np.repeat(begins[groups] - np.cumsum(sizes) + sizes, sizes)
    group = packed[ordered[tied]]
    ordered[tied] = ordered[tied][np.lexsort((group["f1"], group["f0"]))]


def locate(subset: Uids, wanted: Uids) -> tuple[Positions, Positions]:
    """For each of `wanted`, shape (n,): its first position in the sorted subset, and how often it occurs (0: not)."""
    high = subset["f0"]
    left = np.searchsorted(high, wanted["f0"], "left").astype(np.int64)
    right = np.searchsorted(high, wanted["f0"], "right").astype(np.int64)
    first = _bisect(subset["f1"], left, right, wanted["f1"], "left")
    return first, _bisect(subset["f1"], first, right, wanted["f1"], "right") - first


def stretch(values: Any, first: Positions, count: Positions, wanted: int) -> tuple[Positions, Positions]:
    """Of stretches of `values` (the first position and the length of each, sorted within), the part that is `wanted`."""
    what = np.full(len(first), wanted, values.dtype)
    begin = _bisect(values, first, first + count, what, "left")
    return begin, _bisect(values, begin, first + count, what, "right") - begin


def _bisect(values: Any, low: Positions, high: Positions, wanted: Any, side: Literal["left", "right"]) -> Positions:
    """Binary search in many sorted stretches of `values` at once."""
    low, high = low.copy(), high.copy()
    while (searching := low < high).any():
        middle = (low + high) // 2
        found = values[np.minimum(middle, len(values) - 1)]
        after = searching & (found < wanted if side == "left" else found <= wanted)
        low = np.where(after, middle + 1, low)
        high = np.where(searching & ~after, middle, high)
    return low


def is_sorted(packed: Uids) -> bool:
    """Whether it is in lexicographical order."""
    high, low = packed["f0"], packed["f1"]
    return bool(np.all((high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] <= low[1:]))))


def num_unique(packed: Uids) -> int:
    """Distinct uids in a sorted array."""
    same = np.flatnonzero(packed["f0"][1:] == packed["f0"][:-1])
    return len(packed) - int(np.count_nonzero(packed["f1"][same] == packed["f1"][same + 1]))


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


def no_subset(where: str, problem: Exception) -> str:
    """Return the error message for a file that numpy cannot read."""
    told = str(problem)
    if "No data left" in told or "expected 8 bytes got 0" in told:
        return f"{where} is empty: select the subset again."
    return f"{where} is not a subset file (npy of dtype u8,u8): {told}"


def no_subset_dtype(where: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """Return the error message for an array that does not contain uids."""
    if len(shape) == 1 and dtype.newbyteorder("=") == DTYPE:
        return f"{where} has big-endian numbers: write it in this byte order with `datacomp subset sort FILE --out SORTED`."
    return f"{where} has dtype {dtype} and shape {shape}; a subset file is one of dtype u8,u8, shape (n,)."


def _loaded(source: io.BytesIO | Path, where: str) -> Uids:
    try:
        packed = np.load(source, mmap_mode="r" if isinstance(source, Path) else None, allow_pickle=False)
    except Exception as problem:  # numpy's reader of headers raises a dozen kinds on bad bytes, tokenize's own among them
        raise DataError(no_subset(where, problem)) from problem
    if not isinstance(packed, np.ndarray):
        raise DataError(f"{where} is not a subset file (npy of dtype u8,u8) but an archive of arrays.")
    if packed.dtype != DTYPE or packed.ndim != 1:
        raise DataError(no_subset_dtype(where, packed.dtype, packed.shape))
    if _goes_on(source, packed):
        raise DataError(f"{where} continues after its {len(packed):,} uids: it is damaged, or two files in one; make it again.")
    for begin in range(0, len(packed), CHECKED_AT_ONCE):
        if not is_sorted(packed[begin : begin + CHECKED_AT_ONCE + 1]):
            raise DataError(
                f"{where} is not sorted, and a subset file must be: sort it with `datacomp subset sort FILE --out SORTED`."
            )
    return packed


def _goes_on(source: io.BytesIO | Path, packed: Uids) -> bool:
    if isinstance(source, io.BytesIO):
        return bool(source.read(1))
    return isinstance(packed, np.memmap) and packed.offset + packed.nbytes < source.stat().st_size
