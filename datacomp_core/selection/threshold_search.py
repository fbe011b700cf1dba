"""Finds the exact k-th best score of a pool in bounded memory: a histogram over the scores' bits, refined until few are left.

Scores of any number type become unsigned keys in the same order, so each pass decides 16 bits; float32 needs two passes at most.
No process ever loads more than one part's scores, or `FEW` candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError

Keys = npt.NDArray[np.unsignedinteger[Any]]
DIGIT = 16
FEW = 1 << 22
BITS = {"Float32": 32, "Float64": 64, "UInt64": 64}


class ScoreCutoff(NamedTuple):
    """Scores of at least `value` pass; none do if it is None. `times`: how often every row is taken before
    (`RankFilter.full_rounds`)."""

    value: float | int | None
    times: int = 0


@dataclass(frozen=True)
class KeyWindow:
    """Keys whose top `digits * 16` bits are `prefix`. `collect`: return them, else count them by their next 16 bits."""

    prefix: int = 0
    digits: int = 0
    collect: bool = False


@dataclass(frozen=True)
class WindowCounts:
    """The counts of one part in a window."""

    num_rows: int
    num_scores: int
    dtype: str
    counts: npt.NDArray[np.int64] | None = None
    keys: Keys | None = None


Pass = Callable[[KeyWindow], Iterator[WindowCounts]]


def keys_of(scores: pl.Series) -> tuple[Keys, str]:
    """Non-null scores as keys of the same order, and the type they were compared in."""
    scores = scores.drop_nulls()
    name = str(scores.dtype)
    assert name in BITS, f"scores of type {name}"
    if name == "UInt64":
        return scores.to_numpy(), name
    unsigned, signed, floating = (np.uint32, np.int32, np.float32) if name == "Float32" else (np.uint64, np.int64, np.float64)
    values = scores.to_numpy() + floating(0)  # makes -0.0 a 0.0: they are equal
    negative = (values.view(signed) >> signed(BITS[name] - 1)).view(unsigned)  # all bits of those that are, none of others
    return values.view(unsigned) ^ (negative | unsigned(1 << (BITS[name] - 1))), name


def value_of(key: int, dtype: str) -> float | int:
    """Return the score of a key."""
    if dtype == "UInt64":
        return key
    unsigned, floating = (np.uint32, np.float32) if dtype == "Float32" else (np.uint64, np.float64)
    sign = 1 << (BITS[dtype] - 1)
    bits = key ^ sign if key & sign else ~key & (2 * sign - 1)
    return float(np.array([bits], unsigned).view(floating)[0])


def count_window(scores: pl.Series, num_rows: int, window: KeyWindow) -> WindowCounts:
    """One part's share in a window; `num_rows` counts the rows without a score too."""
    keys, dtype = keys_of(scores)
    bits = BITS[dtype]
    inside, number = keys, keys.dtype.type
    if window.digits:
        inside = keys[(keys >> number(bits - DIGIT * window.digits)) == number(window.prefix)]
    if window.collect:
        return WindowCounts(num_rows, len(keys), dtype, keys=inside)
    digit = (inside >> number(bits - DIGIT * (window.digits + 1))) & number((1 << DIGIT) - 1)
    counts = np.bincount(digit.astype(np.int64), minlength=1 << DIGIT).astype(np.int64)
    return WindowCounts(num_rows, len(keys), dtype, counts=counts)


def find(every: Pass, rank: Callable[[int], tuple[int, bool]], *, is_few: bool = False) -> tuple[ScoreCutoff, int]:
    """The score of the k-th best, and the rows ranked; `rank(num_rows)` gives k (see `RankFilter.rank`). One to four passes.

    `is_few`: there are about as few rows as can be collected at once, in one pass.
    """
    first = _added(every(KeyWindow(collect=is_few)))
    found: Any = rank(first.num_rows)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], (int, np.integer))):
        raise DataError(f"A ranking's `rank` returns {found!r}: return the position of the last row that passes, and a boolean.")
    k, whole = int(found[0]), bool(found[1])
    if k < 0 or first.num_scores == 0 or (k >= first.num_scores and not whole):
        return ScoreCutoff(None), first.num_rows
    k = min(k, first.num_scores - 1)
    return ScoreCutoff(_best(first, k) if is_few else _refined(every, first, k)), first.num_rows


def _refined(every: Pass, seen: _Seen, k: int) -> float | int:
    window = KeyWindow()
    while True:
        digit, k = _digit(seen.counts, k)
        window = KeyWindow((window.prefix << DIGIT) | digit, window.digits + 1)
        if window.digits * DIGIT == BITS[seen.dtype]:
            return value_of(window.prefix, seen.dtype)
        if seen.counts[digit] <= FEW:
            return _best(_added(every(replace(window, collect=True))), k)
        seen = _added(every(window))


def _best(seen: _Seen, k: int) -> float | int:
    keys = np.concatenate(seen.keys)
    place = len(keys) - 1 - k
    return value_of(int(np.partition(keys, place)[place]), seen.dtype)


@dataclass
class _Seen:
    """The counts of all parts in a window."""

    num_rows: int
    num_scores: int
    dtype: str
    counts: npt.NDArray[np.int64]
    keys: list[Keys]


def _added(looks: Iterator[WindowCounts]) -> _Seen:
    seen = _Seen(0, 0, "", np.zeros(1 << DIGIT, np.int64), [])
    for part in looks:
        seen.num_rows, seen.num_scores = seen.num_rows + part.num_rows, seen.num_scores + part.num_scores
        if part.num_scores:
            if seen.dtype not in ("", part.dtype):
                disagree = ", ".join(sorted({seen.dtype, part.dtype}))
                raise DataError(f"The parts disagree on the type of a score ({disagree}): make the scores again.")
            seen.dtype = part.dtype
            if part.counts is not None:
                seen.counts += part.counts
            if part.keys is not None:
                seen.keys.append(part.keys)
    return seen


def _digit(counts: npt.NDArray[np.int64], k: int) -> tuple[int, int]:
    """The digit of the k-th best, and its rank among those that share the digit."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k, side="right"))
    return len(counts) - 1 - place, k - (int(above[place - 1]) if place else 0)
