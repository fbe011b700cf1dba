"""What is most like the rest of the best, with no target set. Source: Wang et al. 2024 (arXiv:2405.19547), NormSim-D.

The rows that come to it (the best 30-45 % by a CLIP score, say) are their own first target: with S the matrix of second moments
of the images that are left, every step drops those of the lowest f' S f, until the wanted fraction is left.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import Survey, SurveyView, register

Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@register("norm_sim_d")
class NormSimD(Survey):
    """Keeps the rows that are most like each other, by shrinking a set that is its own target."""

    features: str = Field(default="l14", pattern=r"^[a-z0-9_]+$", description="Whose embeddings: <features>_img of the npz.")
    left: float = Field(default=0.667, gt=0, le=1, description="Fraction of the rows that come to it.")
    steps: int = Field(default=168, ge=1, description="The authors took 168 at small, 500 at medium.")

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return f"{self.left:.4g} most like the rest ({self.steps} steps)"

    def reason(self) -> str:
        return "unlike the rest"

    def expected_share(self, num_rows: int) -> float:
        return self.left

    def survey(self, view: SurveyView) -> None:
        moment: Matrix | float = 0.0
        counts: dict[str, int] = {}
        for part, (count, own) in view.map(partial(_first, self, view), view.names):
            counts[part] = count
            moment = moment + own
        known = {part: _left(view, part) for part in view.names}
        start = sum(counts.values())
        for number in range(1, self.steps + 1):
            size = start - round((start - int(start * self.left)) * number / self.steps)
            if isinstance(moment, np.ndarray) and size < sum(counts.values()):
                moment = self._shrink(view, counts, moment, size)
        for part in view.names:
            unknown = np.setdiff1d(np.flatnonzero(view.reached(part)), known[part])
            view.decide(part, _left(view, part), unknown=unknown)

    def _shrink(self, view: SurveyView, counts: dict[str, int], moment: Matrix, size: int) -> Matrix:
        """Keep the `size` best (of equals the first); the moments without those that go."""
        parts = [part for part in view.names if counts[part]]
        scored = dict(view.map(partial(_scored, self, view, moment), parts))
        stay = np.zeros(sum(counts.values()), np.bool_)
        stay[np.argsort(-np.concatenate([scored[part] for part in parts]), kind="stable")[:size]] = True
        edges = np.cumsum([counts[part] for part in parts])[:-1]
        jobs = [(part, mine) for part, mine in zip(parts, np.split(stay, edges), strict=True) if not mine.all()]
        for (part, mine), lost in view.map(partial(_drop, self, view), jobs):
            counts[part] = int(mine.sum())
            moment = moment - lost
        return moment


def _left(view: SurveyView, part: str) -> Rows:
    return np.load(_file(view, part))


def _file(view: SurveyView, part: str) -> Path:
    return view.local / "left" / f"{part}.npy"


def _first(asked: NormSimD, view: SurveyView, part: str) -> tuple[int, Matrix | float]:
    """How many rows have features, and the sum of f f' over them."""
    rows, moment = [np.empty(0, np.int64)], 0.0
    for places, block in view.blocks(part, f"{asked.features}_img"):
        rows.append(places)
        moment = moment + _outer(block)
    _file(view, part).parent.mkdir(parents=True, exist_ok=True)
    np.save(_file(view, part), np.concatenate(rows))
    return sum(len(some) for some in rows), moment


def _drop(asked: NormSimD, view: SurveyView, job: tuple[str, npt.NDArray[np.bool_]]) -> Matrix | float:
    """Keep the rows of a part that stay; the sum of f f' over those that go."""
    part, stay = job
    left, moment = _left(view, part), 0.0
    for places, block in view.blocks(part, f"{asked.features}_img"):
        moment = moment + _outer(block[np.isin(places, left[~stay])])
    np.save(_file(view, part), left[stay])
    return moment


def _scored(asked: NormSimD, view: SurveyView, moment: Matrix, part: str) -> Scores:
    """f' S f of the rows of a part that are left."""
    left, found = _left(view, part), [np.empty(0)]
    for places, block in view.blocks(part, f"{asked.features}_img"):
        some = block[np.isin(places, left)].astype(np.float64)
        found.append(np.einsum("nd,nd->n", some @ moment, some))
    return np.concatenate(found)


def _outer(block: npt.NDArray[np.float32]) -> Matrix:
    exact = block.astype(np.float64)
    return exact.T @ exact
