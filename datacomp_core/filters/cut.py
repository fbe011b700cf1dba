"""The exact k-th best score of a pool in bounded memory: a histogram over the scores' bits, refined until few are left.

Scores of any number type become unsigned keys in the same order, so 16 bits a pass decide; float32 needs two passes at most.
No process ever holds more than one part's scores, or `FEW` candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError

Keys = npt.NDArray[np.uint64]
DIGIT = 16
FEW = 1 << 22
BITS = {"Float32": 32, "Float64": 64, "UInt64": 64}


class Cut(NamedTuple):
    """Scores of at least `value` pass; none do if it is None. `times`: how often every row is taken before (`SampleTo`)."""

    value: float | int | None
    times: int = 0


@dataclass(frozen=True)
class Window:
    """Keys whose top `digits * 16` bits are `prefix`. `collect`: return them, else count them by their next 16 bits."""

    prefix: int = 0
    digits: int = 0
    collect: bool = False


@dataclass(frozen=True)
class Look:
    """What one part holds in a window."""

    num_rows: int
    num_scores: int
    dtype: str
    counts: npt.NDArray[np.int64] | None = None
    keys: Keys | None = None


Pass = Callable[[Window], Iterator[Look]]


def keys_of(scores: pl.Series) -> tuple[Keys, str]:
    """Non-null scores as keys of the same order, and the type they were compared in."""
    scores = scores.drop_nulls()
    name = str(scores.dtype)
    assert name in BITS, f"scores of type {name}"
    if name == "UInt64":
        return scores.to_numpy().astype(np.uint64), name
    unsigned, floating = (np.uint32, np.float32) if name == "Float32" else (np.uint64, np.float64)
    bits = (scores.to_numpy().astype(floating) + floating(0)).view(unsigned)  # + 0 makes -0.0 a 0.0: they are equal
    sign = unsigned(1 << (BITS[name] - 1))
    return np.where(bits & sign, ~bits, bits | sign).astype(np.uint64), name


def value_of(key: int, dtype: str) -> float | int:
    """The score that a key stands for."""
    if dtype == "UInt64":
        return key
    unsigned, floating = (np.uint32, np.float32) if dtype == "Float32" else (np.uint64, np.float64)
    sign = 1 << (BITS[dtype] - 1)
    bits = key ^ sign if key & sign else ~key & (2 * sign - 1)
    return float(np.array([bits], unsigned).view(floating)[0])


def look(scores: pl.Series, num_rows: int, window: Window) -> Look:
    """One part's share in a window; `num_rows` counts the rows without a score too."""
    keys, dtype = keys_of(scores)
    bits = BITS[dtype]
    inside = keys
    if window.digits:
        inside = keys[(keys >> np.uint64(bits - DIGIT * window.digits)) == np.uint64(window.prefix)]
    if window.collect:
        return Look(num_rows, len(keys), dtype, keys=inside)
    digit = (inside >> np.uint64(bits - DIGIT * (window.digits + 1))) & np.uint64((1 << DIGIT) - 1)
    counts = np.bincount(digit.astype(np.int64), minlength=1 << DIGIT).astype(np.int64)
    return Look(num_rows, len(keys), dtype, counts=counts)


def find(every: Pass, rank: Callable[[int], tuple[int, bool]]) -> tuple[Cut, int]:
    """The score of the k-th best, and the rows ranked; `rank(num_rows)` gives k (see `Ranked.rank`). One to four passes."""
    total, num_rows, num_scores, dtype = _counted(every(Window()))
    k, whole = rank(num_rows)
    if k < 0 or num_scores == 0 or (k >= num_scores and not whole):
        return Cut(None), num_rows
    return Cut(_refined(every, total, min(k, num_scores - 1), dtype)), num_rows


def _refined(every: Pass, total: npt.NDArray[np.int64], k: int, dtype: str) -> float | int:
    window = Window()
    while True:
        digit, k = _digit(total, k)
        window = Window((window.prefix << DIGIT) | digit, window.digits + 1)
        if window.digits * DIGIT == BITS[dtype]:
            return value_of(window.prefix, dtype)
        if total[digit] <= FEW:
            found = [part.keys for part in every(Window(window.prefix, window.digits, collect=True)) if part.keys is not None]
            keys = np.concatenate(found)
            return value_of(int(np.partition(keys, len(keys) - 1 - k)[len(keys) - 1 - k]), dtype)
        total = _counted(every(window))[0]


def _counted(looks: Iterator[Look]) -> tuple[npt.NDArray[np.int64], int, int, str]:
    total = np.zeros(1 << DIGIT, np.int64)
    num_rows = num_scores = 0
    dtypes: set[str] = set()
    for part in looks:
        assert part.counts is not None
        total += part.counts
        num_rows, num_scores = num_rows + part.num_rows, num_scores + part.num_scores
        if part.num_scores:
            dtypes.add(part.dtype)
    if len(dtypes) > 1:
        raise DataError(f"The parts disagree on the type of a score ({', '.join(sorted(dtypes))}): make the scores again.")
    return total, num_rows, num_scores, dtypes.pop() if dtypes else "Float64"


def _digit(counts: npt.NDArray[np.int64], k: int) -> tuple[int, int]:
    """The digit of the k-th best, and its rank among those that share the digit."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k, side="right"))
    return len(counts) - 1 - place, k - (int(above[place - 1]) if place else 0)
