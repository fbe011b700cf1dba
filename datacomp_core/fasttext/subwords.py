"""The pieces of tokens that fastText has vectors of: all runs of a few characters of `<token>`, known by their hashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Places = npt.NDArray[np.int64]
HASH_START, HASH_STEP = np.uint32(2166136261), np.uint32(16777619)


def pieces(tokens: pl.Series, shortest: int, longest: int) -> list[tuple[Places, npt.NDArray[np.uint32]]]:
    """For each length in characters the hashes of all pieces of `<token>`, with the places of their tokens, in order.

    The hash is fastText's FNV-1a, in which bytes are signed.
    """
    column: Any = ("<" + tokens + ">").to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(column.buffers()[1], np.int64, len(tokens) + 1, 8 * column.offset)
    raw = np.frombuffer(column.buffers()[2], np.int8)[offsets[0] : offsets[-1]]
    places = np.flatnonzero((raw.view(np.uint8) & 0xC0) != 0x80)
    sizes = np.diff(np.append(places, len(raw)))
    owners = np.searchsorted(offsets - offsets[0], places, side="right") - 1
    ends = np.searchsorted(owners, np.arange(len(tokens)), side="right")
    signed = raw.astype(np.uint32)
    begins, hashes, found = np.arange(len(places)), np.full(len(places), HASH_START), []
    for length in range(1, longest + 1):
        inside = begins + length <= ends[owners[begins]]
        begins, hashes = begins[inside], hashes[inside]
        last = begins + length - 1
        hashes = (hashes ^ signed[places[last]]) * HASH_STEP
        for byte in range(1, 4):
            more = np.flatnonzero(sizes[last] > byte)
            hashes[more] = (hashes[more] ^ signed[places[last[more]] + byte]) * HASH_STEP
        if length >= shortest:
            found.append((owners[begins], hashes))
    return found
