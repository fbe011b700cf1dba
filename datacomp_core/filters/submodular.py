"""SDM: keeps pairs whose learned concepts cover the concepts of a target, good ones first. Source: SDM (ICLR 2026), as its
abstract and notes describe it; no code of its authors is public, and what they do not say is ours and described in
`docs/filters.md`.

An image's concepts are the active units of a k-sparse autoencoder of embeddings. A set A is worth
`weight * sum_i p_i log(1 + m_i(A)) + (1 - weight) * sum_k u_k log(1 + n_k(A))`: m_i rows of A have unit i, p is how often the
target's images have it, n_k rows of A are in quality bin k. That is monotone submodular, and stochastic greedy takes, again and
again, the best of a few random rows. Parts are processed in order, each giving its share, with shared m and n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters.balanced_draw import chance
from datacomp_core.filters.base import GlobalFilter, GlobalView, ScoreName, register, score_column, score_field, score_title
from datacomp_core.filters.mix import finite
from datacomp_core.input_classes import InputUse
from datacomp_core.vectors.files import Vectors, VectorsName, matched, target_use, unit
from datacomp_core.vectors.sparse_autoencoder import Autoencoder, Codes, train

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
DRAWS_AT_ONCE = 4096


@register("submodular")
class Submodular(GlobalFilter):
    """Keeps a fraction that covers a target's learned concepts, good pairs first (SDM)."""

    score: ScoreName = score_field("l14")
    target: VectorsName = Field(default="imagenet1k_l14", description="Embeddings of the target set: a released set, or a file.")
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    left: float = Field(default=0.15, gt=0, le=1, description="Fraction of the incoming rows.")
    weight: float = Field(
        default=0.5, ge=0, le=1, description="Weight of the concepts; the rest is the weight of the quality bins."
    )
    bin_edges: tuple[float, ...] = Field(
        default=(0.7, 0.85), description="Increasing quantiles of the score between quality bins."
    )
    bin_weights: tuple[float, ...] = Field(default=(0.0, 0.01, 0.99), description="Value of each quality bin, worst first.")
    units: int = Field(default=98_304, ge=2, description="Concepts of the autoencoder (the authors' 98,304).")
    active: int = Field(default=32, ge=1, description="Concepts of one image.")
    training_rows: int = Field(default=500_000, ge=1, description="Number of images that train the autoencoder, all in memory.")
    epochs: int = Field(default=2, ge=1, description="Training passes over them.")
    epsilon: float = Field(
        default=0.1, ge=0, lt=1, description="A step evaluates n / k log(1 / epsilon) random rows. 0: all remaining rows (slow)."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the autoencoder and of the random rows.")

    @model_validator(mode="after")
    def _fits(self) -> Submodular:
        if len(self.bin_weights) != len(self.bin_edges) + 1 or min(self.bin_weights, default=0) < 0:
            raise SpecError("submodular needs a weight of 0 or more for each quality bin: one more than there are bin_edges.")
        if list(self.bin_edges) != sorted(set(self.bin_edges)) or not all(0 < edge < 1 for edge in self.bin_edges):
            raise SpecError("The bin_edges of submodular are quantiles between 0 and 1, each larger than the one before.")
        if self.active > self.units:
            raise SpecError(f"submodular has {self.units:,} units and {self.active:,} active ones: use fewer active units.")
        return self

    @classmethod
    def uses(cls, given: Mapping[str, Any]) -> Iterator[InputUse]:
        yield from super().uses(given)
        yield from target_use(given.get("target", cls.model_fields["target"].default))

    def columns(self) -> frozenset[str]:
        return frozenset({score_column(self.score)})

    def title(self) -> str:
        return f"{self.left:.4g} that cover {self.units:,} concepts of the target, by {score_title(self.score)}"

    def reason(self) -> str:
        return f"adds less to the target's concepts than the {self.left:.4g} kept"

    def missing(self) -> str:
        return f"no {score_title(self.score)} or no finite features {self.features}_img"

    def expected_share(self, num_rows: int) -> float:
        return self.left

    def decide_all(self, view: GlobalView) -> None:
        if not view.num_reached:
            for part in view.names:
                view.decide(part, np.empty(0, np.int64))
            return
        edges = self._edges(view)
        found = dict(view.map(partial(_training, self, view), view.names))
        rows = [found[part] for part in view.names if len(found[part])]
        if not rows:
            if self._share(view) < 1:
                raise DataError(
                    f"None of the about {self.training_rows:,} rows that were drawn to train submodular has features "
                    f"{self.features}_img: use more training_rows, or embed the pool."
                )
            raise DataError(f"No row that reaches submodular has features {self.features}_img: embed the pool, or fetch them.")
        sample = np.concatenate(rows)
        learned = train(sample, self.units, self.active, epochs=self.epochs, seed=self.seed)
        sizes = dict(view.map(partial(_coded, self, view, learned, edges), view.names))
        worth = CoverageGain.of(self.weight, self._target(learned, sample.shape[1]), np.array(self.bin_weights))
        total, before, done = sum(sizes.values()), 0, 0
        for part in view.names:
            before += sizes[part]
            wanted = int(before * self.left) - done
            codes, bins, known = (view.shared.load(f"{name}/{part}.npy") for name in ("codes", "bins", "known"))
            chosen = greedy(worth, codes, bins, wanted, self.looked_at(total), f"{self.seed} {part}")
            done += len(chosen)
            view.decide(part, known[chosen], unknown=np.setdiff1d(np.flatnonzero(view.reached(part)), known))

    def _share(self, view: GlobalView) -> float:
        """The share of the incoming rows that train the autoencoder."""
        return min(1.0, self.training_rows / max(view.num_reached, 1))

    def looked_at(self, total: int) -> int:
        """How many random rows a step looks at; 0: all."""
        if not self.epsilon:
            return 0
        return max(1, int(np.ceil(total / max(int(total * self.left), 1) * np.log(1 / self.epsilon))))

    def _edges(self, view: GlobalView) -> Numbers:
        column = score_column(self.score)
        found = [view.best([column], partial(_values, column), partial(_rank, edge)) for edge in self.bin_edges]
        return np.array([np.inf if edge is None else edge for edge in found], np.float64)

    def _target(self, learned: Autoencoder, dimensions: int) -> Numbers:
        """How often the target's images have each concept; the sum is 1."""
        codes = learned.codes(unit(matched(self.target, dimensions)))
        counts = np.bincount(codes[codes >= 0], minlength=self.units).astype(np.float64)
        return counts / max(counts.sum(), 1)


def _values(column: str, frame: pl.DataFrame) -> pl.Series:
    return frame.select(finite(column)).to_series()


def _rank(edge: float, rows: int) -> tuple[int, bool]:
    return max(int(rows * (1 - edge)) - 1, 0), True


class CoverageGain(NamedTuple):
    """The gain of one more row with a concept, or in a bin: `units` (units + 1,), where the last is 0 for no concept, and `bins`.

    `chosen` and `in_bin` count the rows taken so far; all four change with each row.
    """

    scale: Numbers
    bin_scale: Numbers
    units: Numbers
    bins: Numbers
    chosen: Places
    in_bin: Places

    @classmethod
    def of(cls, weight: float, target: Numbers, bin_weights: Numbers) -> CoverageGain:
        scale, bin_scale = np.append(weight * target, 0.0), (1 - weight) * bin_weights
        first = np.log(2.0)
        counts = np.zeros(len(scale), np.int64), np.zeros(len(bin_scale), np.int64)
        return cls(scale, bin_scale, scale * first, bin_scale * first, *counts)

    def take(self, codes: Codes, own: int) -> None:
        """Count a row in; `codes` are its concepts, each once but for -1."""
        self.chosen[codes] += 1
        self.units[codes] = self.scale[codes] * np.log1p(1 / (1 + self.chosen[codes]))
        self.in_bin[own] += 1
        self.bins[own] = self.bin_scale[own] * np.log1p(1 / (1 + self.in_bin[own]))


def greedy(worth: CoverageGain, codes: Codes, bins: npt.NDArray[np.uint8], wanted: int, looked_at: int, key: str) -> Places:
    """The rows (up to `wanted`) that greedy takes of a part, in increasing order.

    It looks at `looked_at` random rows a step; 0: at all that are left.
    """
    left, size = np.arange(len(codes)), len(codes)
    random, chosen = chance(key), list[int]()
    draws = np.empty((0, looked_at))
    for number in range(min(wanted, size)):
        if not looked_at or looked_at >= size:
            places = np.arange(size)
        else:
            if number % DRAWS_AT_ONCE == 0 or not len(draws):
                draws = random.random((DRAWS_AT_ONCE, looked_at))
            places = (draws[number % DRAWS_AT_ONCE] * size).astype(np.int64)
        rows = left[places]
        gains = worth.units[codes[rows]].sum(1) + worth.bins[bins[rows]]
        best = np.flatnonzero(gains == gains.max())
        place = places[best[np.argmin(rows[best])]]
        row = int(left[place])
        worth.take(codes[row], int(bins[row]))
        chosen.append(row)
        size -= 1
        left[place] = left[size]
    return np.array(sorted(chosen), np.int64)


def _training(asked: Submodular, view: GlobalView, part: str) -> Vectors:
    """A part's share of the rows that the autoencoder learns from, drawn from a seed."""
    share = asked._share(view)  # pyright: ignore[reportPrivateUsage] - of the same file
    random, found = chance(f"{asked.seed} {part} training"), list[Vectors]()
    for _, block in view.blocks(part, f"{asked.features}_img"):
        found.append(unit(block[random.random(len(block)) < share] if share < 1 else block))
    return np.concatenate(found) if found else np.empty((0, 1), np.float32)


def _coded(asked: Submodular, view: GlobalView, learned: Autoencoder, edges: Numbers, part: str) -> int:
    """Note the concepts and the quality bin of a part's rows that have a score and features; how many there are."""
    column = score_column(asked.score)
    scores = np.full(len(view.reached(part)), np.nan)
    frame = view.frame(part, [column]).select("row", finite(column))
    scores[frame["row"].to_numpy()] = frame[column].to_numpy()
    codes, known = [np.empty((0, asked.active), np.int32)], [np.empty(0, np.int64)]
    for rows, block in view.blocks(part, f"{asked.features}_img"):
        scored = ~np.isnan(scores[rows])
        codes.append(learned.codes(unit(block[scored])))
        known.append(rows[scored])
    rows = np.concatenate(known)
    view.shared.save(f"codes/{part}.npy", np.concatenate(codes))
    view.shared.save(f"known/{part}.npy", rows)
    view.shared.save(f"bins/{part}.npy", np.searchsorted(edges, scores[rows], side="right").astype(np.uint8))
    return len(rows)
