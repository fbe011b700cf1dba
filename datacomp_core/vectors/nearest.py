"""The nearest of many vectors by inner product: faiss on CPUs, torch on a GPU, the same answer from both.

Single precision decides but where the best two are so close that rounding could; those rows are decided in double precision.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datacomp_core.device import default_device
from datacomp_core.vectors.files import Vectors

Places = npt.NDArray[np.int64]
CLOSE = 1e-5
GPU_ROWS = 4096
AT_ONCE = 64


def nearest(rows: Vectors, centroids: Vectors, device: str = "") -> Places:
    """For each row (n, d) the place of the centroid (k, d) with the largest inner product; of equals the first. Shape (n,)."""
    if not len(rows):
        return np.empty(0, np.int64)
    two = min(2, len(centroids))
    device = device or default_device()
    found = by_torch(rows, centroids, two, device) if device.startswith("cuda") else by_faiss(rows, centroids, two)
    return resolve_ties(rows, centroids, *found)


def resolve_ties(rows: Vectors, centroids: Vectors, best: Vectors, places: Places) -> Places:
    """The first of each row's places, (n, 2), or what double precision says where the second is as good but for rounding."""
    found = places[:, 0].copy()
    if places.shape[1] == 2:
        margin = CLOSE * float(np.linalg.norm(centroids, axis=1).max()) * np.linalg.norm(rows, axis=1)
        close = np.flatnonzero(best[:, 0] - best[:, 1] <= margin)
        for start in range(0, len(close), AT_ONCE):
            some = close[start : start + AT_ONCE]
            row, near = np.nonzero(rows[some] @ centroids.T >= (best[some, 0] - margin[some])[:, None])
            exact = np.einsum("nd,nd->n", rows[some[row]], centroids[near], dtype=np.float64)
            ordered = np.lexsort((near, -exact, row))
            row, first = np.unique(row[ordered], return_index=True)
            found[some[row]] = near[ordered[first]]
    return found


def by_faiss(rows: Vectors, centroids: Vectors, count: int) -> tuple[Vectors, Places]:
    """Inner products and places of the best `count`, both (n, count)."""
    import faiss

    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)  # pyright: ignore[reportCallIssue]
    return index.search(np.ascontiguousarray(rows), count)  # pyright: ignore[reportCallIssue]


def by_torch(rows: Vectors, centroids: Vectors, count: int, device: str) -> tuple[Vectors, Places]:
    """The same."""
    import torch

    torch.set_float32_matmul_precision("highest")  # no TF32
    there = torch.from_numpy(centroids).to(device).T
    best, places = [], []
    for start in range(0, len(rows), GPU_ROWS):
        top = torch.topk(torch.from_numpy(rows[start : start + GPU_ROWS]).to(device) @ there, count, dim=1)
        best.append(top.values.cpu().numpy())
        places.append(top.indices.cpu().numpy())
    return np.concatenate(best), np.concatenate(places)
