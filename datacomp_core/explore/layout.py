"""Where each sample stands on the map: two numbers from its features, by PCA or, where it is installed, by UMAP.

PCA takes two passes in bounded memory. UMAP (McInnes et al. 2018) is fitted on a part of a large sample, and the rest is placed
among it. Samples without features have no place (NaN).
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import MissingLibraryError

Kind = Literal["pca", "umap"]
Floats = npt.NDArray[np.float32]
AT_ONCE = 1 << 15
UMAP_ROWS = 100_000
UMAP_DIMENSIONS = 50
HOW_TO_GET = "The map by UMAP needs the library umap-learn: pip install 'datacomp[umap]', or use --map pca."


def known_rows(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The rows that have features, (n,)."""
    found = [
        np.flatnonzero(np.isfinite(vectors[start : start + AT_ONCE]).all(axis=1)) + start
        for start in range(0, len(vectors) if vectors.shape[1] else 0, AT_ONCE)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])


def principal(vectors: npt.NDArray[np.floating], rows: npt.NDArray[np.int64], dimensions: int) -> Floats:
    """The first principal components of some rows, (rows, dimensions); each one's sign makes its largest weight positive."""
    total, products = np.zeros(vectors.shape[1]), np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(rows), AT_ONCE):
        block = vectors[rows[start : start + AT_ONCE]].astype(np.float32)
        total += block.sum(axis=0, dtype=np.float64)
        products += (block.T @ block).astype(np.float64)
    mean = total / max(len(rows), 1)
    _, axes = np.linalg.eigh(products / max(len(rows), 1) - np.outer(mean, mean))
    axes = axes[:, ::-1][:, :dimensions]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    made = np.zeros((len(rows), dimensions), np.float32)
    for start in range(0, len(rows), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        made[some, : axes.shape[1]] = (vectors[rows[some]].astype(np.float32) - mean.astype(np.float32)) @ axes.astype(np.float32)
    return made


def layout(vectors: npt.NDArray[np.floating], kind: Kind, *, seed: int = 0) -> Floats:
    """Places (n, 2) in -1..1, NaN where a row has no features."""
    places = np.full((len(vectors), 2), np.nan, np.float32)
    rows = known_rows(vectors)
    if len(rows) < 3:
        places[rows] = 0
        return places
    flat = principal(vectors, rows, 2) if kind == "pca" else _umap(principal(vectors, rows, UMAP_DIMENSIONS), seed)
    low, high = np.quantile(flat, (0.001, 0.999), axis=0)
    scale = float((high - low).max()) / 2 or 1.0
    places[rows] = np.clip((flat - (low + high) / 2) / scale, -1.2, 1.2)
    return places


def has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None


def _umap(points: Floats, seed: int) -> Floats:
    if not has_umap():
        raise MissingLibraryError(HOW_TO_GET)
    import umap  # pyright: ignore[reportMissingImports]

    fitted = np.random.default_rng(seed).permutation(len(points))[:UMAP_ROWS]
    neighbours = min(15, len(points) - 1)
    model = umap.UMAP(n_neighbors=neighbours, min_dist=0.05, metric="euclidean", random_state=seed, n_jobs=1)
    made = np.empty((len(points), 2), np.float32)
    made[fitted] = model.fit_transform(points[fitted])
    rest = np.setdiff1d(np.arange(len(points)), fitted)
    for start in range(0, len(rest), AT_ONCE):
        made[rest[start : start + AT_ONCE]] = model.transform(points[rest[start : start + AT_ONCE]])
    return made
