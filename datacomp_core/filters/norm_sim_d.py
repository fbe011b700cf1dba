"""Keeps the rows that are most similar to the rest, without a target set. Source: Wang et al. 2024 (arXiv:2405.19547), NormSim-D.

The rows that come to it (the best 30-45 % by a CLIP score, say) are their own first target: with S the matrix of second moments
of the images that are left, every step drops those of the lowest f' S f, until the wanted fraction is left.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import GlobalFilter, GlobalView, Mask, register
from datacomp_core.ordered_results import results_in_order

Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
MOST_IN_MEMORY = 64
"""Matrices of parts that wait for a part before them: 5 MB each with 768 features."""


@register("norm_sim_d")
class NormSimD(GlobalFilter):
    """Keeps the rows that are most similar to each other, by shrinking a set that is its own target."""

    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    left: float = Field(default=0.667, gt=0, le=1, description="Fraction of the incoming rows.")
    steps: int = Field(default=168, ge=1, description="Number of steps; the authors used 168 at small, 500 at medium.")

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return f"{self.left:.4g} most like the rest ({self.steps} steps)"

    def reason(self) -> str:
        return "unlike the rest"

    def expected_share(self, num_rows: int) -> float:
        return self.left

    def decide_all(self, view: GlobalView) -> None:
        moment: Matrix | float = 0.0
        alive: dict[str, Mask] = {}
        found = results_in_order(view.map(partial(_first, self, view), view.names), view.names, MOST_IN_MEMORY)
        for part, (count, own) in zip(view.names, found, strict=True):
            alive[part] = np.ones(count, np.bool_)
            moment = moment + own
        start = _count(alive)
        for number in range(1, self.steps + 1):
            size = start - round((start - int(start * self.left)) * number / self.steps)
            if isinstance(moment, np.ndarray) and size < _count(alive):
                moment = self._shrink(view, alive, moment, size)
        for _ in view.scan(partial(_decide, view), ((part, alive[part]) for part in view.names)):
            pass

    def _shrink(self, view: GlobalView, alive: dict[str, Mask], moment: Matrix, size: int) -> Matrix:
        """Keep the `size` best (of equals the first); the moments without those that go."""
        parts = [part for part in view.names if alive[part].any()]
        asked = [(part, alive[part]) for part in parts]
        scored = {part: scores for (part, _), scores in view.map(partial(_scored, self, view, moment), asked)}
        stay = np.zeros(_count(alive), np.bool_)
        stay[np.argsort(-np.concatenate([scored[part] for part in parts]), kind="stable")[:size]] = True
        gone: dict[str, Mask] = {}
        for part, mine in zip(parts, np.split(stay, np.cumsum([len(scored[part]) for part in parts])[:-1]), strict=True):
            if not mine.all():
                gone[part] = np.zeros(len(alive[part]), np.bool_)
                gone[part][np.flatnonzero(alive[part])[~mine]] = True
                alive[part] &= ~gone[part]
        lost = ((part, (own,)) for (part, _), own in view.map(partial(_moment_of, self, view), gone.items()))
        for (own,) in results_in_order(lost, gone, MOST_IN_MEMORY):  # sums of floats must not depend on timing
            moment = moment - own
        return moment


def _count(alive: dict[str, Mask]) -> int:
    return sum(int(mask.sum()) for mask in alive.values())


def _known(view: GlobalView, part: str) -> Rows:
    """The rows of a part that came and have features."""
    return view.shared.load(f"known/{part}.npy")


def _decide(view: GlobalView, job: tuple[str, Mask]) -> None:
    part, alive = job
    known = _known(view, part)
    view.decide(part, known[alive], unknown=np.setdiff1d(np.flatnonzero(view.reached(part)), known))


def _first(asked: NormSimD, view: GlobalView, part: str) -> tuple[int, Matrix | float]:
    """How many rows have features, and the sum of f f' over them."""
    rows, moment = [np.empty(0, np.int64)], 0.0
    for places, block in view.blocks(part, f"{asked.features}_img"):
        rows.append(places)
        moment = moment + _outer(block)
    view.shared.save(f"known/{part}.npy", np.concatenate(rows))
    return sum(map(len, rows)), moment


def _moment_of(asked: NormSimD, view: GlobalView, job: tuple[str, Mask]) -> Matrix | float:
    """The sum of f f' over some of a part's known rows."""
    part, some = job
    rows, moment = _known(view, part)[some], 0.0
    for places, block in view.blocks(part, f"{asked.features}_img"):
        moment = moment + _outer(block[np.isin(places, rows)])
    return moment


def _scored(asked: NormSimD, view: GlobalView, moment: Matrix, job: tuple[str, Mask]) -> Scores:
    """f' S f of the rows of a part that are left."""
    part, alive = job
    left, found = _known(view, part)[alive], [np.empty(0)]
    for places, block in view.blocks(part, f"{asked.features}_img"):
        some = block[np.isin(places, left)].astype(np.float64)
        found.append(np.einsum("nd,nd->n", some @ moment, some))
    return np.concatenate(found)


def _outer(block: npt.NDArray[np.float32]) -> Matrix:
    exact = block.astype(np.float64)
    return exact.T @ exact
