"""Density-based pruning: removes more images from dense, simple clusters. Source: Abbas et al. 2024, Effective pruning of
web-scale datasets based on complexity of concept clusters (arXiv:2401.04578), as in their code (amro-kamal/effective_pruning).

d_intra of a cluster is the mean distance (1 - cosine) of its images to its centroid, d_inter the mean distance of its centroid to
the nearest others. What a cluster keeps is as near as its size allows to a softmax of d_intra * d_inter / temperature, by their
quadratic programme; inside it the hardest images (farthest from the centroid) are kept.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import GlobalFilter, GlobalView, register
from datacomp_core.ordered_results import results_in_order
from datacomp_core.shared_buckets import ROW, SharedBuckets
from datacomp_core.vectors.files import Vectors, VectorsName, matched, unit, vectors
from datacomp_core.vectors.nearest import nearest

ROWS_A_BUCKET = 2_000_000
RECORD = np.dtype([("cluster", "i8"), ("part", "i4"), ("row", "i8"), ("near", "f4")])
Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@register("density_prune")
class DensityPrune(GlobalFilter):
    """Keeps a fraction with quotas by cluster: more of clusters that are wide and far from others, of each the hardest images."""

    centroids: VectorsName = Field(
        default="small_centroids_l14",
        description="k-means centroids: a file of `datacomp cluster` (the paper's: 100 at medium), or a released set.",
    )
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    left: float = Field(default=0.6, gt=0, le=1, description="Fraction of the incoming rows.")
    temperature: float = Field(
        default=0.1, gt=0, allow_inf_nan=False, description="Temperature of the softmax; 0.1 to 0.5 in the paper."
    )
    neighbors: int = Field(default=20, ge=1, description="Number of nearest other centroids in the mean d_inter.")
    balance: float = Field(
        default=0.0, ge=0, le=1, description="Minimum of every cluster, as a share of an even split. 0: at least one image."
    )
    keep: Literal["hard", "easy"] = Field(
        default="hard", description="Which images of a cluster to keep: far from its centroid, or near."
    )

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return f"{self.left:.4g} by density of clusters (temperature {self.temperature:g}, {self.keep} ones)"

    def reason(self) -> str:
        return f"over its cluster's quota (density, {self.left:.4g} kept)"

    def expected_share(self, num_rows: int) -> float:
        return self.left

    def decide_all(self, view: GlobalView) -> None:
        centroids = vectors(self.centroids)
        num = min(len(centroids), max(1, -(-view.num_reached // ROWS_A_BUCKET)))
        buckets = SharedBuckets((view.shared / "clusters").folder, num, RECORD)
        kept = SharedBuckets((view.shared / "kept").folder, len(view.names), ROW)
        parts = list(enumerate(view.names))
        sizes, distance = np.zeros(len(centroids), np.int64), np.zeros(len(centroids))
        for clusters, counts, sums in results_in_order(view.map(partial(_spill, self, view, buckets), parts), parts):
            sizes[clusters] += counts
            distance[clusters] += sums
        quotas = self.quotas(centroids, sizes, distance)
        for _ in view.map(partial(_note_kept, self, buckets.regrouped(view.map), kept, quotas), range(num)):
            pass
        for _ in view.scan(partial(_decide, view, kept.regrouped(view.map)), parts):
            pass

    def quotas(self, centroids: Vectors, sizes: Places, distance: Numbers) -> Places:
        """How many images each cluster keeps, of its size and the sum of its images' distances."""
        with np.errstate(invalid="ignore"):
            intra = distance / sizes
        density = intra * inter_distance(unit(centroids), self.neighbors)
        density = np.where(np.isnan(density), np.nanmean(density) if sizes.any() else 0, density)
        odds = np.exp((density - density.max()) / self.temperature)
        return quotas(odds / odds.sum(), sizes, int(self.left * int(sizes.sum())), self.balance)


def inter_distance(centroids: Vectors, neighbors: int) -> Numbers:
    """The mean of 1 - cosine of each unit centroid (k, d) and its nearest others; 1 if there is no other."""
    import faiss

    count = min(neighbors, len(centroids) - 1)
    if not count:
        return np.ones(len(centroids))
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)  # pyright: ignore[reportCallIssue]
    cosine, _ = index.search(centroids, count + 1)  # pyright: ignore[reportCallIssue]
    return (1 - cosine[:, 1:].astype(np.float64)).mean(1)


def quotas(shares: Numbers, sizes: Places, total: int, balance: float = 0.0) -> Places:
    """The whole numbers x nearest to `shares * total` with the sum `total` (but for rounding) and at most `sizes`.

    `pruning_qp` of the authors: min |x - shares * total|^2 under these bounds, which osqp solves there. The solution is the wish
    moved by one number and cut at the bounds, so bisection finds it exactly. A cluster keeps at least one image less than it has,
    up to the minimum that `balance` sets (theirs; an empty one keeps none).
    """
    minimum = int(total / max(len(sizes), 1) * balance) if balance > 0 else 1
    lower = np.maximum(np.minimum(minimum, sizes - 1), 0).astype(np.float64)
    wished, upper = shares * total, sizes.astype(np.float64)
    reach = float(np.abs(wished).max(initial=0) + upper.max(initial=0)) + 1
    low, high = -reach, reach
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(wished + middle, lower, upper).sum() < total else (low, middle)
    return np.rint(np.clip(wished + high, lower, upper)).astype(np.int64)


def _spill(asked: DensityPrune, view: GlobalView, buckets: SharedBuckets, job: tuple[int, str]) -> tuple[Places, Places, Numbers]:
    """Put a part's images to their clusters: the clusters that have some, how many, and the sum of their distances."""
    place, part = job
    columns: dict[str, list[npt.NDArray[np.generic]]] = {"cluster": [], "row": [], "near": []}
    for rows, block in view.blocks(part, f"{asked.features}_img"):
        centroids, directions = unit(matched(asked.centroids, block.shape[1])), unit(block)
        cluster = nearest(directions, centroids)
        near = np.einsum("nd,nd->n", directions, centroids[cluster])
        for name, values in (("cluster", cluster), ("row", rows), ("near", near)):
            columns[name].append(values)
    cluster, rows, near = (np.concatenate([np.empty(0, RECORD[name]), *values]) for name, values in columns.items())
    all_of_it = {"cluster": cluster, "part": np.full(len(rows), place, np.int32), "row": rows, "near": near}
    buckets.add(f"{place:08d}", cluster % buckets.num, all_of_it)
    view.shared.save(f"known/{part}.npy", rows)
    clusters, inverse, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    far = np.zeros(len(clusters))
    np.add.at(far, inverse, 1 - near.astype(np.float64))
    return clusters, counts, far


def _note_kept(asked: DensityPrune, buckets: SharedBuckets, kept: SharedBuckets, quota: Places, number: int) -> None:
    """Write the rows that a bucket's clusters keep, by part."""
    rows = buckets.read(number)
    if not len(rows):
        return
    near = rows["near"] if asked.keep == "hard" else -rows["near"]
    rows = rows[np.lexsort((rows["row"], rows["part"], near, rows["cluster"]))]
    clusters, starts, sizes = np.unique(rows["cluster"], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, sizes)
    chosen = rows[rank < np.repeat(quota[clusters], sizes)]
    kept.add(f"{number:08d}", chosen["part"].astype(np.int64), {"row": chosen["row"]})


def _decide(view: GlobalView, kept: SharedBuckets, job: tuple[int, str]) -> None:
    place, part = job
    known = view.shared.load(f"known/{part}.npy")
    view.decide(part, kept.read(place)["row"], unknown=np.setdiff1d(np.flatnonzero(view.reached(part)), known))
