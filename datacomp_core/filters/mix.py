"""Weighted mixes of score columns, each standardised over the pool. Source: M-FLYT (Shechter and Carmon 2025, arXiv:2503.08805).

There twelve scores are mixed with learned weights; any columns will do. A row that lacks one of them has no mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field

from datacomp_core.errors import SpecError
from datacomp_core.filters.base import GlobalFilter, GlobalView, ScoreName, register, score_column, score_title

Standard = Literal["standardised", "as_is"]


def _finite(weights: dict[str, float]) -> dict[str, float]:
    if any(not np.isfinite(weight) for weight in weights.values()):
        raise SpecError("A weight of the mix is not a finite number: correct it.")
    return dict(sorted(weights.items()))


Scaled = Callable[[pl.DataFrame], pl.Series]
Weights = Annotated[dict[ScoreName, float], AfterValidator(_finite)]


@register("mix")
class Mix(GlobalFilter):
    """Keeps the best fraction by a weighted sum of standardised scores."""

    weights: Weights = Field(default={"b32": 0.5, "l14": 0.5}, min_length=1, description="Score column -> weight.")
    scale: Standard = Field(
        default="standardised", description="standardised: each column minus its mean over its deviation (of the pool)."
    )
    best: float = Field(default=0.2, gt=0, le=1, description="Fraction of the incoming rows.")

    def columns(self) -> frozenset[str]:
        return frozenset(weighted_columns(self.weights))

    def title(self) -> str:
        return f"top {self.best:.4g} by {self._sum()}"

    def reason(self) -> str:
        return f"below the top {self.best:.4g} by {self._sum()}"

    def _sum(self) -> str:
        return " + ".join(f"{weight:g} {score_title(score)}" for score, weight in self.weights.items())

    def expected_share(self, num_rows: int) -> float:
        return self.best

    def decide_all(self, view: GlobalView) -> None:
        scaled = mixed(view, self.weights, self.scale)
        columns = weighted_columns(self.weights)
        cut = view.best(columns, scaled, lambda rows: (int(rows * self.best) - 1, True))
        for _ in view.scan(partial(_decide, view, columns, scaled, cut), view.names):
            pass


def _decide(view: GlobalView, columns: list[str], scaled: Scaled, cut: float | None, part: str) -> None:
    frame = view.frame(part, columns)
    values = scaled(frame)
    rows = frame["row"].to_numpy().astype(np.int64)
    yes = (values >= cut).fill_null(False).to_numpy() if cut is not None else np.zeros(len(rows), np.bool_)
    view.decide(part, rows[yes], unknown=rows[values.is_null().to_numpy()])


class Moments(NamedTuple):
    """Of one column over the pool."""

    mean: float
    deviation: float


def weighted_columns(weights: Mapping[str, float]) -> list[str]:
    return sorted({score_column(score) for score in weights})


def mixed(view: GlobalView, weights: Mapping[str, float], scale: Standard) -> Scaled:
    """The weighted sum of a frame's columns as Float64, null where one is missing. It pickles."""
    known = {column: Moments(0.0, 1.0) for column in weighted_columns(weights)}
    if scale == "standardised":
        known = moments(view, sorted(known))
    return partial(_weighted_sum, dict(weights), known)


def _weighted_sum(weights: Mapping[str, float], known: Mapping[str, Moments], frame: pl.DataFrame) -> pl.Series:
    total = pl.lit(0.0)
    for score, weight in weights.items():
        column = score_column(score)
        values = finite(column)
        total = total + weight * (values - known[column].mean) / known[column].deviation
    return frame.select(total.alias("mix")).to_series()


def finite(column: str) -> pl.Expr:
    """A column as Float64; null where it is NaN or infinite, for neither can be standardised or weighted."""
    values = pl.col(column).cast(pl.Float64)
    return pl.when(values.is_finite()).then(values).alias(column)


def moments(view: GlobalView, columns: Sequence[str]) -> dict[str, Moments]:
    """Mean and standard deviation of columns over all rows that have them, by Chan's pairwise update. 1 for a constant one."""
    count, mean, square = (np.zeros(len(columns)) for _ in range(3))
    found = dict(view.scan(partial(_moments_of, view, list(columns)), view.names))
    for part in view.names:  # in their order: sums of floats must not depend on timing
        for place, (rows, own, own_square) in enumerate(found[part]):
            if not rows:
                continue
            both = count[place] + rows
            step = own - mean[place]
            square[place] += own_square + step**2 * count[place] * rows / both
            mean[place] += step * rows / both
            count[place] = both
    deviation = np.sqrt(square / np.maximum(count, 1))
    return {column: Moments(float(mean[place]), float(deviation[place]) or 1.0) for place, column in enumerate(columns)}


def _moments_of(view: GlobalView, columns: list[str], part: str) -> list[tuple[int, float, float]]:
    """Of each column of a part: how many values it has, their mean, and the sum of squares around it."""
    frame = view.all_rows(part, columns).select(finite(column) for column in columns)
    found: list[tuple[int, float, float]] = []
    for column in columns:
        values = frame[column].drop_nulls().to_numpy()
        own = float(values.mean()) if len(values) else 0.0
        found.append((len(values), own, float(((values - own) ** 2).sum())))
    return found
