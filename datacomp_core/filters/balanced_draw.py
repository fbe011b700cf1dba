"""Draws that balance the concepts of pairs: p of a pair falls with the number of pairs that share its concepts.

Source: Gadre et al. 2023, DataComp (arXiv:2304.14108), appendix on text-based and image-based sampling. N_j rows have
concept j, and a row's p is the mean or the largest N_j^(alpha - 1) over its concepts: alpha = 1 draws evenly over rows, alpha = 0
evenly over concepts. Draws are independent with replacement, and a draw of a row that already has 100 repeats is repeated.
"""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import Counter
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.filters.base import GlobalView
from datacomp_core.filters.resampling import ResamplingFilter, note_copies

log = logging.getLogger(__name__)
Rows = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


class RowConcepts(NamedTuple):
    """`(row, concept)` of a part, each once, in order of rows; and the incoming rows without a concept."""

    rows: Rows
    concepts: Rows
    unknown: Rows


class BalancedDraw(ResamplingFilter):
    """Base class: `concepts` returns the concepts of the rows of a part."""

    alpha: float = Field(default=0.2, ge=0, le=1, description="1: uniform over rows. 0: uniform over concepts.")
    num_draws: int = Field(default=0, ge=0, description="Rows of the subset, including repeats. 0: the number of incoming rows.")
    at_most_draws: int = Field(default=100, ge=1, description="Maximum number of draws of one row (the paper's 100).")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the draw.")

    @abstractmethod
    def concepts(self, view: GlobalView, part: str) -> RowConcepts:
        """The concepts of the rows of a part that came."""

    def aggregate(self) -> Literal["mean", "max"]:
        """How the concepts of a row become one p."""
        return "mean"

    def title(self) -> str:
        return f"{self._number()} draws balanced by {self.kind} (alpha {self.alpha:g}, seed {self.seed})"

    def reason(self) -> str:
        return f"not drawn ({self._number()} balanced by {self.kind}, seed {self.seed})"

    def _number(self) -> str:
        return f"{self.num_draws:,}" if self.num_draws else "as many"

    def expected_share(self, num_rows: int) -> float | None:
        return self.num_draws / max(num_rows, 1) if self.num_draws else self.filter.expected_share(num_rows)

    def label(self) -> str:
        return f"{self.filter.label()}_{self.kind}" + (f"_{self.num_draws}" if self.num_draws else "")

    def decide_all(self, view: GlobalView) -> None:
        total: Counter[int] = Counter()
        for _, counted in view.map(partial(_counted, self, view), view.names):
            total.update(counted)
        masses = dict(view.map(partial(_weighed, self, view, total), view.names))
        left, number, last = self.num_draws or view.num_reached, 1, dict.fromkeys(view.names, 0)
        while left and (weights := np.array([masses[part] for part in view.names])).sum() > 0:
            drawn = chance(f"{self.seed} {number}").multinomial(left, weights / weights.sum())
            jobs = [(part, int(count), last[part], number) for part, count in zip(view.names, drawn, strict=True) if count]
            left = 0
            for (part, *_), (again, mass) in view.map(partial(_drawn, self, view), jobs):
                left, masses[part], last[part] = left + again, mass, number
            number += 1
        if left:
            log.warning(
                f"{self.title()}: {left:,} draws found no row, since every row that has a concept was drawn "
                f"{self.at_most_draws:,} times. Lower num_draws, or raise at_most_draws."
            )
        for _ in view.scan(partial(_decide, view), last.items()):
            pass


def chance(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def _counted(asked: BalancedDraw, view: GlobalView, part: str) -> dict[int, int]:
    """Note the concepts of a part's rows; how many rows have each."""
    found = asked.concepts(view, part)
    for name, values in found._asdict().items():
        view.shared.save(f"{name}/{part}.npy", values)
    concepts, counts = np.unique(found.concepts, return_counts=True)
    return dict(zip(concepts.tolist(), counts.tolist(), strict=True))


def _weighed(asked: BalancedDraw, view: GlobalView, total: Counter[int], part: str) -> float:
    """Note the share of each row that has a concept; their sum."""
    rows, concepts = view.shared.load(f"rows/{part}.npy"), view.shared.load(f"concepts/{part}.npy")
    known, starts, sizes = np.unique(rows, return_index=True, return_counts=True)
    counts = np.array([total[concept] for concept in concepts.tolist()], np.float64)
    weights = counts ** (asked.alpha - 1)
    if not len(known):
        shares = np.empty(0, np.float64)
    elif asked.aggregate() == "max":
        shares = np.maximum.reduceat(weights, starts)
    else:
        shares = np.add.reduceat(weights, starts) / sizes
    view.shared.save(f"known/{part}.npy", known)
    view.shared.save(f"counts/{part}-0.npy", np.zeros(len(known), np.uint32))
    view.shared.save(f"shares/{part}-0.npy", shares)
    return float(shares.sum())


def _drawn(asked: BalancedDraw, view: GlobalView, job: tuple[str, int, int, int]) -> tuple[int, float]:
    """Draw a number of rows of a part: how many draws were over the cap, and the sum of the shares that are left.

    The job names the round whose counts it goes on from, so that a worker's second try begins at the same round.
    """
    part, number, before, turn = job
    counts, shares = view.shared.load(f"counts/{part}-{before}.npy"), view.shared.load(f"shares/{part}-{before}.npy")
    open_ones = np.flatnonzero(shares > 0)
    drawn = chance(f"{asked.seed} {turn} {part}").multinomial(number, shares[open_ones] / shares[open_ones].sum())
    wanted = counts[open_ones].astype(np.int64) + drawn
    counts[open_ones] = np.minimum(wanted, asked.at_most_draws)
    shares[open_ones[wanted >= asked.at_most_draws]] = 0
    view.shared.save(f"counts/{part}-{turn}.npy", counts)
    view.shared.save(f"shares/{part}-{turn}.npy", shares)
    return int(np.maximum(wanted - asked.at_most_draws, 0).sum()), float(shares.sum())


def _decide(view: GlobalView, job: tuple[str, int]) -> None:
    part, last = job
    counts, known = view.shared.load(f"counts/{part}-{last}.npy"), view.shared.load(f"known/{part}.npy")
    copies = np.zeros(len(view.reached(part)), np.uint32)
    copies[known] = counts
    note_copies(view, part, copies)
    view.decide(part, known[counts > 0], unknown=view.shared.load(f"unknown/{part}.npy"))
