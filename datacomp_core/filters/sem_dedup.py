"""Keeps one of each group of semantically equal images. Source: Abbas et al. 2023, SemDeDup (arXiv:2303.09540).

Images are put to their nearest centroid; inside a cluster they are ordered by their distance from it (hard ones first), and
an image is dropped if its cosine with an earlier one is over 1 - epsilon, whether or not that one is kept.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import GlobalFilter, GlobalView, register
from datacomp_core.shared_buckets import ROW, SharedBuckets
from datacomp_core.vectors.feature_pieces import pieces
from datacomp_core.vectors.files import Vectors, VectorsName, matched, unit, vectors
from datacomp_core.vectors.nearest import nearest

COMPARED_AT_ONCE = 1 << 24
ROWS_A_BUCKET = 200_000


@register("sem_dedup")
class SemDedup(GlobalFilter):
    """Keeps one of each group of images with nearly equal embeddings, among the incoming rows."""

    centroids: VectorsName = Field(
        default="small_centroids_l14", description="k-means centroids: a released set, or a file of `datacomp cluster`."
    )
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    epsilon: float = Field(default=0.05, gt=0, lt=1, description="Images with a cosine over 1 - epsilon are copies.")
    keep: Literal["hard", "easy"] = Field(
        default="hard", description="Which copy to keep: the farthest from the centroid, or the nearest."
    )

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return f"no image within {self.epsilon:g} of another"

    def reason(self) -> str:
        return f"an image within {self.epsilon:g} of another"

    def decide_all(self, view: GlobalView) -> None:
        centroids = vectors(self.centroids)
        own = [("cluster", "i8"), ("part", "i4"), ("row", "i8"), ("near", "f4"), ("unit", "f4", (centroids.shape[1],))]
        num = min(len(centroids), max(1, -(-view.num_reached // ROWS_A_BUCKET)))
        buckets = SharedBuckets((view.shared / "clusters").folder, num, np.dtype(own))
        for _ in view.map(partial(_spill, self, view, buckets), list(enumerate(view.names))):
            pass
        lost = SharedBuckets((view.shared / "lost").folder, len(view.names), ROW)
        for _ in view.map(partial(_note_copies, self, buckets.regrouped(view.map), lost), range(num)):
            pass
        for _ in view.scan(partial(_decide, view, lost.regrouped(view.map)), list(enumerate(view.names))):
            pass


def _decide(view: GlobalView, lost: SharedBuckets, job: tuple[int, str]) -> None:
    """Pass all rows of a part that have features and are not copies."""
    place, part = job
    copies = lost.read(place)["row"]
    known = view.shared.load(f"known/{part}.npy")
    view.decide(part, np.setdiff1d(known, copies), unknown=np.setdiff1d(np.flatnonzero(view.reached(part)), known))


def _spill(asked: SemDedup, view: GlobalView, buckets: SharedBuckets, job: tuple[int, str]) -> None:
    """Put a part's images to their clusters, and note the rows that have one."""
    place, part = job
    found = [np.empty(0, np.int64)]
    for number, (rows, block) in enumerate(pieces(view.blocks(part, f"{asked.features}_img"))):
        centroids = matched(asked.centroids, block.shape[1])
        directions = unit(block)
        cluster = nearest(block, centroids)
        near = np.einsum("nd,nd->n", directions, unit(centroids[cluster]))
        columns = {"cluster": cluster, "part": np.full(len(rows), place, np.int32), "row": rows, "near": near, "unit": directions}
        buckets.add(f"{place:08d}-{number:08d}", cluster % buckets.num, columns)
        found.append(rows)
    view.shared.save(f"known/{part}.npy", np.concatenate(found))


def _note_copies(asked: SemDedup, buckets: SharedBuckets, lost: SharedBuckets, number: int) -> None:
    """Note the images of a bucket's clusters that have one like them before them."""
    rows = buckets.read(number)
    if not len(rows):
        return
    near = rows["near"] if asked.keep == "hard" else -rows["near"]
    rows = rows[np.lexsort((rows["row"], rows["part"], near, rows["cluster"]))]
    clusters = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows["cluster"])) + 1)
    copies = np.concatenate([some[is_near_earlier(rows["unit"][some], 1 - asked.epsilon)] for some in clusters])
    lost.add(f"{number:08d}", rows["part"][copies].astype(np.int64), {"row": rows["row"][copies]})


def is_near_earlier(directions: Vectors, over: float) -> npt.NDArray[np.bool_]:
    """Of unit rows (n, d) in order: whether one before has a cosine over `over`. Shape (n,)."""
    lost = np.zeros(len(directions), np.bool_)
    step = max(1, COMPARED_AT_ONCE // max(len(directions), 1))
    for start in range(0, len(directions), step):
        stop = min(start + step, len(directions))
        cosine = directions[start:stop] @ directions[:stop].T
        before = np.arange(stop)[None, :] < np.arange(start, stop)[:, None]
        lost[start:stop] = ((cosine > over) & before).any(1)
    return lost
