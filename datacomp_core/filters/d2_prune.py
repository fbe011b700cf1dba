"""D2 pruning: keeps good pairs with no better pair nearby. Source: Maharana et al. 2023, D2 Pruning: Message Passing for
Balancing Diversity and Difficulty in Data Pruning (arXiv:2310.07931), with the settings of their `select_d2_datacomp.py`.

Forward: a pair's score plus exp(-gamma d) times those of its nearest neighbours (d the squared distance of embeddings). Then the
best is taken again and again, and each that is taken takes exp(-gamma d) of its score from its neighbours. There neighbours come
from an approximate index of the pool; here they are the exact ones of the same cluster. A pair's score when it is taken never
rises from one to the next, so clusters are worked through one by one and their best are the pool's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core.filters.base import GlobalFilter, GlobalView, ScoreName, register, score_column, score_field, score_title
from datacomp_core.filters.mix import finite
from datacomp_core.shared_buckets import SharedBuckets
from datacomp_core.vectors.feature_pieces import Piece, pieces
from datacomp_core.vectors.files import Vectors, VectorsName, matched, unit, vectors
from datacomp_core.vectors.nearest import nearest

ROWS_A_BUCKET = 100_000
LEAST = 1e-7
TAKEN = np.dtype([("row", "i8"), ("value", "f8")])
Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@register("d2_prune")
class D2Prune(GlobalFilter):
    """Keeps a fraction by a score that is passed between neighbours: the best of several near copies represents the others."""

    score: ScoreName = score_field("l14")
    centroids: VectorsName = Field(
        default="small_centroids_l14",
        description="Centroids of the clusters in which neighbours are searched: a released set, or a file.",
    )
    features: str = Field(default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img and _txt.")
    distance: Literal["image", "image_text"] = Field(
        default="image_text", description="Distances between images, or between image-caption pairs."
    )
    neighbors: int = Field(default=1, ge=1, description="Nearest neighbours (the authors' 1 at DataComp).")
    gamma: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="How fast messages fade with distance.")
    left: float = Field(default=0.3, gt=0, le=1, description="Fraction of the incoming rows.")
    offset: float = Field(default=0.115, ge=0, allow_inf_nan=False, description="Added to every score, so that none is negative.")

    def columns(self) -> frozenset[str]:
        return frozenset({score_column(self.score)})

    def title(self) -> str:
        return f"{self.left:.4g} by {score_title(self.score)} and diversity ({self.neighbors} neighbours)"

    def reason(self) -> str:
        return f"outshone by neighbours, or below the top {self.left:.4g} with them"

    def missing(self) -> str:
        return f"no {score_title(self.score)} or no finite features {self.features}_img"

    def expected_share(self, num_rows: int) -> float:
        return self.left

    def decide_all(self, view: GlobalView) -> None:
        width = self._width(view)
        centroids = vectors(self.centroids)
        own = [("cluster", "i8"), ("part", "i4"), ("row", "i8"), ("score", "f8"), ("vector", "f4", (width,))]
        num = min(len(centroids), max(1, -(-view.num_reached // ROWS_A_BUCKET)))
        buckets = SharedBuckets((view.shared / "clusters").folder, num, np.dtype(own))
        taken = SharedBuckets((view.shared / "taken").folder, len(view.names), TAKEN)
        for _ in view.map(partial(_spill, self, view, buckets), list(enumerate(view.names))):
            pass
        for _ in view.map(partial(_taken, self, buckets.regrouped(view.map), taken), range(buckets.num)):
            pass
        by_part = taken.regrouped(view.map)
        cut = view.best_of(partial(_values, by_part), range(by_part.num), lambda rows: (int(rows * self.left) - 1, True))
        for _ in view.map(partial(_decide, view, by_part, np.inf if cut is None else cut), list(enumerate(view.names))):
            pass

    def _width(self, view: GlobalView) -> int:
        sides = 1 if self.distance == "image" else 2
        block = next((block for part in view.names for _, block in view.blocks(part, f"{self.features}_img")), None)
        return sides * (1 if block is None else block.shape[1])

    def pairs(self, view: GlobalView, part: str) -> Iterator[tuple[Places, Vectors, Vectors]]:
        """Rows that have features, their images (n, d), and what distances are taken of, piece by piece."""
        images = pieces(view.blocks(part, f"{self.features}_img"))
        if self.distance == "image":
            yield from ((rows, block, block) for rows, block in images)
            return
        for rows, image, text in of_both(images, pieces(view.blocks(part, f"{self.features}_txt"))):
            yield rows, image, np.concatenate([image, text], axis=1)


def of_both(left: Iterator[Piece], right: Iterator[Piece]) -> Iterator[tuple[Places, Vectors, Vectors]]:
    """The rows that two streams of features have, in order, with the features of each."""
    ours, theirs = next(left, None), next(right, None)
    while ours is not None and theirs is not None:
        last = min(ours[0][-1], theirs[0][-1])
        rows, here, there = np.intersect1d(ours[0], theirs[0], assume_unique=True, return_indices=True)
        if len(rows):
            yield rows, ours[1][here], theirs[1][there]
        ours = _after(ours, last) or next(left, None)
        theirs = _after(theirs, last) or next(right, None)


def _after(piece: Piece, last: int) -> Piece | None:
    """The rest of a piece after a row; None if it is empty."""
    start = int(np.searchsorted(piece[0], last, side="right"))
    return (piece[0][start:], piece[1][start:]) if start < len(piece[0]) else None


def _spill(asked: D2Prune, view: GlobalView, buckets: SharedBuckets, job: tuple[int, str]) -> None:
    """Put a part's pairs to their clusters, and note the rows that have a score and features."""
    place, part = job
    column = score_column(asked.score)
    scores = np.full(len(view.reached(part)), np.nan)
    frame = view.frame(part, [column]).select("row", finite(column)).drop_nulls()
    scores[frame["row"].to_numpy()] = frame[column].to_numpy()
    known = [np.empty(0, np.int64)]
    for number, (rows, images, points) in enumerate(asked.pairs(view, part)):
        here = ~np.isnan(scores[rows])
        known.append(rows[here])
        cluster = nearest(unit(images[here]), unit(matched(asked.centroids, images.shape[1])))
        whose = {"cluster": cluster, "part": np.full(len(cluster), place, np.int32), "row": rows[here]}
        columns = {**whose, "score": scores[rows[here]], "vector": points[here]}
        buckets.add(f"{place:08d}-{number:08d}", cluster % buckets.num, columns)
    view.shared.save(f"known/{part}.npy", np.concatenate(known))


def _taken(asked: D2Prune, buckets: SharedBuckets, taken: SharedBuckets, number: int) -> None:
    """Write the score at which each pair of a bucket is taken, by part."""
    rows = buckets.read(number)
    if not len(rows):
        return
    rows = rows[np.lexsort((rows["row"], rows["part"], rows["cluster"]))]
    starts = np.flatnonzero(np.diff(rows["cluster"], prepend=-1))
    values = np.empty(len(rows))
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        scores = np.maximum(rows["score"][start:stop] + asked.offset, LEAST)
        values[start:stop] = scores_when_taken(scores, *neighbors(rows["vector"][start:stop], asked.neighbors), asked.gamma)
    taken.add(f"{number:08d}", rows["part"].astype(np.int64), {"row": rows["row"], "value": values})


def _values(taken: SharedBuckets, place: int) -> pl.Series:
    return pl.Series(np.ascontiguousarray(taken.read(place)["value"]))


def neighbors(points: Vectors, count: int) -> tuple[Places, Numbers]:
    """The nearest other points (n, count) of each, and their squared distances; fewer if there are no more."""
    import faiss

    count = min(count, len(points) - 1)
    points = np.ascontiguousarray(points, np.float32)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)  # pyright: ignore[reportCallIssue]
    far, near = index.search(points, count + 1)  # pyright: ignore[reportCallIssue]
    own = near == np.arange(len(points))[:, None]
    own[~own.any(1), -1] = True  # of many equal points it may not be among its own nearest
    exact = np.maximum(far, 0)
    return near[~own].reshape(len(points), count), exact[~own].reshape(len(points), count).astype(np.float64)


def scores_when_taken(scores: Numbers, near: Places, far: Numbers, gamma: float) -> Numbers:
    """Return each point's score at the moment it is taken. The best remaining point is taken next; of equal ones, the first."""
    fade = np.exp(-gamma * far)
    current = (scores + (fade * scores[near]).sum(1)).tolist()
    found = [0.0] * len(scores)
    waiting = [(-value, place) for place, value in enumerate(current)]
    heapq.heapify(waiting)
    done = bytearray(len(scores))
    others, weights = near.tolist(), fade.tolist()
    while waiting:
        value, place = heapq.heappop(waiting)
        if done[place] or -value != current[place]:
            continue
        done[place], found[place] = 1, -value
        for other, weight in zip(others[place], weights[place], strict=True):
            if not done[other] and value < 0 and weight:
                current[other] += value * weight
                heapq.heappush(waiting, (-current[other], other))
    return np.array(found)


def _decide(view: GlobalView, taken: SharedBuckets, cut: float, job: tuple[int, str]) -> None:
    place, part = job
    found = taken.read(place)
    known = view.shared.load(f"known/{part}.npy")
    kept = found["row"][found["value"] >= cut]
    view.decide(part, np.sort(kept), unknown=np.setdiff1d(np.flatnonzero(view.reached(part)), known))
