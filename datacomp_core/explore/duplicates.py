"""Groups of near-duplicate pictures in the sample: those whose features are nearly the same, directly or through others.

Up to EXACT_ROWS every pair is compared. Beyond, pictures are put to cells (the nearest of some of the sample's own vectors), and
a cell's pictures are compared with all pictures that have it among their PROBES nearest cells, as one product of matrices a cell.
That may miss a pair and never makes one up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.explore.layout import known_rows
from datacomp_core.vectors.files import unit

EXACT_ROWS = 50_000
LOWEST = 0.9
"""The smallest cosine that is looked for."""
NEIGHBOURS = 16
AT_ONCE = 1 << 14
PROBES = 8
CELL_ROWS = 250
"""Pictures of a cell on average."""
COMPARED_AT_ONCE = 1 << 24

Rows = npt.NDArray[np.int64]
Cosines = npt.NDArray[np.float32]
Features = npt.NDArray[np.floating]


class SimilarPairs(NamedTuple):
    """Pairs of rows with their cosine, (n,) each; the first row of a pair is the smaller."""

    first: Rows
    second: Rows
    cosine: Cosines


def near_pairs(vectors: Features, lowest: float = LOWEST) -> SimilarPairs:
    """Each row's nearest NEIGHBOURS (of each of its cells) of a cosine of at least `lowest`."""
    rows = known_rows(vectors)
    blocks = [(rows, rows)] if len(rows) <= EXACT_ROWS else _cells(vectors, rows)
    found = [near for left, right in blocks for near in _near(vectors, left, right, lowest)]
    first = np.concatenate([np.empty(0, np.int64), *(each.first for each in found)])
    second = np.concatenate([np.empty(0, np.int64), *(each.second for each in found)])
    cosine = np.concatenate([np.empty(0, np.float32), *(each.cosine for each in found)])
    _, once = np.unique(first * len(vectors) + second, return_index=True)
    return SimilarPairs(first[once], second[once], cosine[once])


def _cells(vectors: Features, rows: Rows) -> Iterator[tuple[Rows, Rows]]:
    """For each cell the rows that have it among their nearest ones, and the rows that have it as the nearest."""
    import faiss

    seeds = np.sort(np.random.default_rng(0).permutation(len(rows))[: -(-len(rows) // CELL_ROWS)])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(_unit(vectors, rows[seeds]))  # pyright: ignore[reportCallIssue]
    probed = np.empty((len(rows), min(PROBES, len(seeds))), np.int32)
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        probed[some] = index.search(_unit(vectors, rows[some]), probed.shape[1])[1]  # pyright: ignore[reportCallIssue]
    order = np.argsort(probed.reshape(-1), kind="stable")
    cuts = np.searchsorted(probed.reshape(-1)[order], np.arange(len(seeds) + 1))
    for start, stop in pairwise(cuts):
        places, rank = np.divmod(order[start:stop], probed.shape[1])
        yield rows[places], rows[places[rank == 0]]


def _near(vectors: Features, left: Rows, right: Rows, lowest: float) -> Iterator[SimilarPairs]:
    """Of each row of `left` the nearest rows of `right`."""
    if not len(right):
        return
    theirs = _unit(vectors, right)
    step = max(1, COMPARED_AT_ONCE // len(right))
    for start in range(0, len(left), step):
        some = left[start : start + step]
        cosine = _unit(vectors, some) @ theirs.T
        cosine[some[:, None] == right] = -2
        first, second = np.nonzero(cosine >= lowest)
        order = np.lexsort((second, -cosine[first, second], first))
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first))))
        first, second = first[order][rank < NEIGHBOURS], second[order][rank < NEIGHBOURS]
        one, other = some[first], right[second]
        yield SimilarPairs(np.minimum(one, other), np.maximum(one, other), cosine[first, second])


def groups(pairs: SimilarPairs, num_rows: int, at_least: float) -> list[Rows]:
    """The rows of each group, the largest group first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    near = pairs.cosine >= at_least
    first, second = pairs.first[near], pairs.second[near]
    if not len(first):
        return []
    there, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    ones = np.ones(len(first), np.int8)
    graph = coo_array((ones, (places[: len(first)], places[len(first) :])), shape=(len(there), len(there)))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return sorted(np.split(there[order], cuts), key=lambda rows: (-len(rows), int(rows[0])))


def _unit(vectors: Features, rows: Rows) -> Cosines:
    return unit(vectors[rows].astype(np.float32))
