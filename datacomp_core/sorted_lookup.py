"""Which uids are in a sorted table: an index of where each prefix of the high word begins leads to a place a step or two away.

The table and its index may be mapped and larger than memory. An index takes 4 bytes an entry, 256 MB at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core import uid

MOST_BITS = 26
ROWS_AT_ONCE = 1 << 22
STEPS = 8
"""From where a prefix begins. Who is not there yet (many uids share the prefix) is searched for."""
IN_MEMORY = 1 << 28
"""Entries of a table up to which the order of the questions does not matter; a larger one is read from front to back."""
Begins = npt.NDArray[np.unsignedinteger[Any]]


def prefix_starts(table: uid.Uids) -> Begins:
    """The place of the first uid of each prefix, and of the end: shape (prefixes + 1,)."""
    bits = _bits(len(table))
    counts = np.zeros((1 << bits) + 1, np.uint32 if len(table) < 1 << 32 else np.uint64)
    for begin in range(0, len(table), ROWS_AT_ONCE):
        prefixes = _prefixes(table["f0"][begin : begin + ROWS_AT_ONCE], bits)
        first = int(prefixes[0])  # sorted: the rows of a piece are those of a few prefixes
        found = np.bincount(prefixes - first)
        counts[first + 1 : first + 1 + len(found)] += found.astype(counts.dtype)
    return np.cumsum(counts, out=counts)


def is_in_table(asked: uid.Uids, table: uid.Uids, begins: Begins) -> npt.NDArray[np.bool_]:
    """Which of the uids asked for, (n,), the sorted table has. Shape (n,)."""
    found = np.zeros(len(asked), np.bool_)
    if not len(table) or not len(asked):
        return found
    if len(table) <= IN_MEMORY:
        return _among(asked, table, begins)
    order = uid.order(asked)
    found[order] = _among(uid.take(asked, order), table, begins)
    return found


def _among(asked: uid.Uids, table: uid.Uids, begins: Begins) -> npt.NDArray[np.bool_]:
    high, low = np.ascontiguousarray(asked["f0"]), np.ascontiguousarray(asked["f1"])
    first = _first(table["f0"], begins, high)
    inside = np.flatnonzero(first < len(table))
    hits = inside[table["f0"][first[inside]] == high[inside]]
    found = np.zeros(len(asked), np.bool_)
    found[hits] = table["f1"][first[hits]] == low[hits]
    unsure = hits[~found[hits]]  # the first with these high bits is another: of random uids hardly any
    if len(unsure):
        _, times = uid.locate(table, asked[unsure])
        found[unsure] = times > 0
    return found


def _first(words: Any, begins: Begins, high: npt.NDArray[np.uint64]) -> uid.Positions:
    """For each high word the first place of the sorted words that is not below it, (n,)."""
    places = begins[_prefixes(high, _bits_of(begins))].astype(np.int64)
    behind = np.arange(len(high))
    for _ in range(STEPS):
        behind = behind[places[behind] < len(words)]
        behind = behind[words[places[behind]] < high[behind]]
        if not len(behind):
            return places
        places[behind] += 1
    places[behind] = np.searchsorted(words, high[behind])
    return places


def _prefixes(words: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.int64]:
    return (words >> np.uint64(64 - bits)).view(np.int64)


def _bits(rows: int) -> int:
    return min(MOST_BITS, max(1, rows.bit_length() - 1))


def _bits_of(begins: Begins) -> int:
    return (len(begins) - 1).bit_length() - 1
