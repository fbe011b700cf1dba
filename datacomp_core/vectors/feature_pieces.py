"""Combines blocks of features into pieces of a bounded size, each worth a separate file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from datacomp_core.vectors.files import Vectors

PIECE_BYTES = 128 << 20
"""Of features in one file of a part: a bucket is a range of every file."""

Piece = tuple[npt.NDArray[np.int64], Vectors]
"""Rows of a part, in order, and their features (n, d)."""


def pieces(blocks: Iterable[Piece]) -> Iterator[Piece]:
    """Blocks put together until they have PIECE_BYTES."""
    held: list[Piece] = []
    for rows, block in blocks:
        held.append((rows, block))
        if sum(found.nbytes for _, found in held) >= PIECE_BYTES:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: list[Piece]) -> Piece:
    return np.concatenate([rows for rows, _ in held]), np.concatenate([block for _, block in held])
