"""Groups of near-duplicate pictures in the sample: those whose features are nearly the same, directly or through others.

Up to EXACT_ROWS every pair is compared; beyond, each picture is compared with those of its nearest cells of an inverted index,
which may miss a pair and never makes one up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.explore.layout import known_rows

EXACT_ROWS = 50_000
LOWEST = 0.9
"""The smallest cosine that is looked for."""
NEIGHBOURS = 16
AT_ONCE = 1 << 14
PROBES = 8


class SimilarPairs(NamedTuple):
    """Pairs of rows with their cosine, (n,) each; the first row of a pair is the smaller."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float32]


def near_pairs(vectors: npt.NDArray[np.floating], lowest: float = LOWEST) -> SimilarPairs:
    """Each row's nearest NEIGHBOURS of a cosine of at least `lowest`."""
    import faiss

    rows, size = known_rows(vectors), max(vectors.shape[1], 1)
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    flat = faiss.IndexFlatIP(size)
    if len(rows) <= EXACT_ROWS:
        index = flat
    else:
        index = faiss.IndexIVFScalarQuantizer(
            flat, size, int(4 * np.sqrt(len(rows))), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        chosen = np.random.default_rng(0).permutation(len(rows))[: 40 * index.nlist]
        index.train(_unit(vectors, np.sort(rows[chosen])))
        index.nprobe = PROBES
    for start in range(0, len(rows), AT_ONCE):
        index.add(_unit(vectors, rows[start : start + AT_ONCE]))
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        scores, places = index.search(_unit(vectors, some), min(NEIGHBOURS + 1, len(rows)))
        first, near = np.repeat(some, scores.shape[1]), places.reshape(-1)
        second = np.where(near < 0, first, rows[np.maximum(near, 0)])
        near = (scores.reshape(-1) >= lowest) & (first != second)
        found.append((np.minimum(first, second)[near], np.maximum(first, second)[near], scores.reshape(-1)[near]))
    if not found:
        return SimilarPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    first, second = np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])
    cosine = np.concatenate([each[2] for each in found])
    _, once = np.unique(first * len(vectors) + second, return_index=True)
    return SimilarPairs(first[once], second[once], cosine[once])


def groups(pairs: SimilarPairs, num_rows: int, at_least: float) -> list[npt.NDArray[np.int64]]:
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


def _unit(vectors: npt.NDArray[np.floating], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    some = np.ascontiguousarray(vectors[rows], np.float32)
    return some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
