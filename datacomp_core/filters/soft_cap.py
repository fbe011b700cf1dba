"""Soft cap sampling: draws with repeats, in which every draw makes a pair less likely to be drawn again.

Source: Shechter and Carmon 2025, FLYT (arXiv:2503.08805), SCS. `num_samples` draws in batches, p = softmax(score); after each
batch `penalty` is taken from the score for every time a pair was drawn. A good pair is drawn often, but none dominates.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import GlobalView, register
from datacomp_core.filters.mix import Scaled, Standard, Weights, mixed, weighted_columns
from datacomp_core.filters.resampling import ResamplingFilter, note_copies
from datacomp_core.filters.sum_tree import SumTree


@register("soft_cap")
class SoftCap(ResamplingFilter):
    """Draws a subset of a given size with repeats, with good pairs more often. It must be the outermost filter."""

    weights: Weights = Field(
        default={"l14": 1.0}, min_length=1, description="The score: a weighted sum of score columns, column -> weight."
    )
    scale: Standard = Field(
        default="as_is",
        description="standardised: each column less its mean, over its deviation, before it is weighted.",
    )
    num_samples: int = Field(default=1_000_000, ge=1, description="Rows of the subset, including repeats.")
    penalty: float = Field(
        default=0.15, ge=0, allow_inf_nan=False, description="Subtracted from a pair's score for each draw of it."
    )
    batch: int = Field(default=100_000, ge=1, description="Draws between two updates of the scores (the paper's 100,000).")
    hard_cap: int = Field(default=0, ge=0, description="Maximum number of draws of a pair, up to one batch more. 0: no limit.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the draws.")

    def columns(self) -> frozenset[str]:
        return frozenset(weighted_columns(self.weights))

    def title(self) -> str:
        return f"{self.num_samples:,} draws under a soft cap (penalty {self.penalty:g}, seed {self.seed})"

    def reason(self) -> str:
        return f"not drawn ({self.num_samples:,} under a soft cap, seed {self.seed})"

    def expected_share(self, num_rows: int) -> float:
        return self.num_samples / max(num_rows, 1)

    def label(self) -> str:
        return f"{self.filter.label()}_soft_cap_{self.num_samples}"

    def decide_all(self, view: GlobalView) -> None:
        scaled = mixed(view, self.weights, self.scale)
        found = dict(view.scan(partial(_scored, view, weighted_columns(self.weights), scaled), view.names))
        counts = self._drawn(np.concatenate([np.empty(0, np.float32), *(found[part] for part in view.names)]))
        drawn = np.split(counts, np.cumsum([len(found[part]) for part in view.names])[:-1])
        for _ in view.scan(partial(_decide, view), zip(view.names, drawn, strict=True)):
            pass

    def _drawn(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
        """How often each row is drawn, shape (rows,)."""
        counts = np.zeros(len(scores), np.uint32)
        if not len(scores):
            return counts
        tree = SumTree(np.exp(scores.astype(np.float64) - float(scores.max())))
        chance = np.random.default_rng(self.seed)
        left = self.num_samples
        while left and tree.total > 0:
            drawn, times = np.unique(tree.draw(chance, min(left, self.batch)), return_counts=True)
            counts[drawn] += times.astype(np.uint32)
            left -= int(times.sum())
            shares = tree.shares(drawn) * np.exp(-self.penalty * times)
            tree.change(drawn, np.where(counts[drawn] >= self.hard_cap, 0.0, shares) if self.hard_cap else shares)
        return counts


def _scored(view: GlobalView, columns: list[str], scaled: Scaled, part: str) -> npt.NDArray[np.float32]:
    """The scores of the rows that have one; which rows those are is noted."""
    frame = view.frame(part, columns)
    values = scaled(frame)
    view.shared.save(f"known/{part}.npy", frame["row"].to_numpy().astype(np.int64)[values.is_not_null().to_numpy()])
    return values.drop_nulls().to_numpy().astype(np.float32)


def _decide(view: GlobalView, job: tuple[str, npt.NDArray[np.uint32]]) -> None:
    """Note how often each row of a part was drawn."""
    part, mine = job
    rows, reach = view.shared.load(f"known/{part}.npy"), view.reached(part)
    copies = np.zeros(len(reach), np.uint32)
    copies[rows] = mine
    note_copies(view, part, copies)
    view.decide(part, rows[mine > 0], unknown=np.setdiff1d(np.flatnonzero(reach), rows))
