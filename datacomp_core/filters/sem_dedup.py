"""One of each group of images that mean the same. Source: Abbas et al. 2023, SemDeDup (arXiv:2303.09540).

Images are put to their nearest centroid; inside a cluster they are ordered by how far they lie from it (hard ones first), and
an image is dropped if its cosine with one before it is over 1 - epsilon, whether or not that one is kept.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.buckets import Buckets
from datacomp_core.filters.base import Survey, SurveyView, register
from datacomp_core.vectors.files import Vectors, VectorsName, matched, unit, vectors
from datacomp_core.vectors.nearest import nearest

COMPARED_AT_ONCE = 1 << 24
ROWS_A_BUCKET = 200_000


@register("sem_dedup")
class SemDedup(Survey):
    """Keeps one of each group of images whose embeddings nearly agree, among the rows that come to it."""

    centroids: VectorsName = Field(
        default="small_centroids_l14", description="k-means centroids: a released set, or a file of `datacomp cluster`."
    )
    features: str = Field(default="l14", pattern=r"^[a-z0-9_]+$", description="Whose embeddings: <features>_img of the npz.")
    epsilon: float = Field(default=0.05, gt=0, lt=1, description="Images with a cosine over 1 - epsilon are copies.")
    keep: Literal["hard", "easy"] = Field(
        default="hard", description="Of copies, the one farthest from the centroid, or the nearest."
    )

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return f"no image within {self.epsilon:g} of another"

    def reason(self) -> str:
        return f"an image within {self.epsilon:g} of another"

    def survey(self, view: SurveyView) -> None:
        centroids = vectors(self.centroids)
        total = sum(int(view.reached(part).sum()) for part in view.names)
        own = [("cluster", "i8"), ("part", "i4"), ("row", "i8"), ("near", "f4"), ("unit", "f4", (centroids.shape[1],))]
        buckets = Buckets(view.local / "clusters", min(len(centroids), max(1, -(-total // ROWS_A_BUCKET))), np.dtype(own))
        known = dict(view.map(partial(_spill, self, view, buckets), list(enumerate(view.names))))
        lost: dict[int, list[npt.NDArray[np.int64]]] = {}
        for _, copies in view.map(partial(_copies, self, buckets), buckets.numbers()):
            for part in np.unique(copies[:, 0]).tolist():
                lost.setdefault(part, []).append(copies[copies[:, 0] == part, 1])
        for place, part in enumerate(view.names):
            rows = known[place, part]
            unknown = np.setdiff1d(np.flatnonzero(view.reached(part)), rows)
            view.decide(part, np.setdiff1d(rows, np.concatenate([np.empty(0, np.int64), *lost.get(place, [])])), unknown=unknown)


def _spill(asked: SemDedup, view: SurveyView, buckets: Buckets, job: tuple[int, str]) -> npt.NDArray[np.int64]:
    """Put a part's images to their clusters; the rows that have one."""
    place, part = job
    found = [np.empty(0, np.int64)]
    for rows, block in view.blocks(part, f"{asked.features}_img"):
        centroids = matched(asked.centroids, block.shape[1])
        directions = unit(block)
        cluster = nearest(block, centroids)
        near = np.einsum("nd,nd->n", directions, unit(centroids[cluster]))
        columns = {"cluster": cluster, "part": np.full(len(rows), place, np.int32), "row": rows, "near": near, "unit": directions}
        buckets.add(f"{place:08d}", cluster % buckets.num, columns)
        found.append(rows)
    return np.concatenate(found)


def _copies(asked: SemDedup, buckets: Buckets, number: int) -> npt.NDArray[np.int64]:
    """`(part, row)` of the images of a bucket's clusters that have one like them before them, shape (n, 2)."""
    rows = buckets.read(number)
    near = rows["near"] if asked.keep == "hard" else -rows["near"]
    rows = rows[np.lexsort((rows["row"], rows["part"], near, rows["cluster"]))]
    clusters = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows["cluster"])) + 1)
    lost = np.concatenate([some[after_a_like(rows["unit"][some], 1 - asked.epsilon)] for some in clusters])
    return np.stack([rows["part"][lost].astype(np.int64), rows["row"][lost]], axis=1)


def after_a_like(directions: Vectors, over: float) -> npt.NDArray[np.bool_]:
    """Of unit rows (n, d) in order: whether one before has a cosine over `over`. Shape (n,)."""
    lost = np.zeros(len(directions), np.bool_)
    step = max(1, COMPARED_AT_ONCE // max(len(directions), 1))
    for start in range(0, len(directions), step):
        stop = min(start + step, len(directions))
        cosine = directions[start:stop] @ directions[:stop].T
        before = np.arange(stop)[None, :] < np.arange(start, stop)[:, None]
        lost[start:stop] = ((cosine > over) & before).any(1)
    return lost
