"""Methods over scales: a curve for each, what it says of the next scale, how far a rank carries, and what repeats are worth.

The logit of the average is fitted as a line over the logarithm of the samples seen: over the paper's four scales that is
straighter than a power law of the error, and it stays below 1. Few points make wide intervals; two make none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.leaderboard.board.board import board
from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.board.stats import CONFIDENCE, Floats, Interval
from datacomp_core.scales import SCALES
from datacomp_core.store import Store

PAPER = "datacomp (paper)"
LEAST_COMMON = 4
# Rank correlations of the paper's filters between scales (Gadre et al. 2023): average of 38.
PUBLISHED = {("small", "medium"): 0.854, ("small", "large"): 0.708, ("medium", "large"): 0.876}


class ScalePoint(BaseModel):
    """One method at one scale."""

    model_config = ConfigDict(frozen=True)
    scale: str
    samples_seen: int
    average: float


class ScalingFit(BaseModel):
    """logit(average) = intercept + slope * log10(samples seen). `interval` is of the prediction; None for two points."""

    model_config = ConfigDict(frozen=True)
    method: str
    suite: str
    points: list[ScalePoint]
    intercept: float
    slope: float
    next_scale: str = ""
    predicted: float | None = None
    interval: Interval | None = None


class RankCorrelation(BaseModel):
    """How well the order of methods at one scale told that at another: Spearman's rho."""

    model_config = ConfigDict(frozen=True)
    small: str
    large: str
    rho: float
    num_methods: int | None = Field(description="None for the published figure.")


class Scaling(BaseModel):
    """See the module."""

    model_config = ConfigDict(frozen=True)
    fits: list[ScalingFit]
    carries: list[RankCorrelation]
    half_lives: dict[str, float] = Field(
        description="By scale: the passes after which a sample has half its value; see `half_life`."
    )


def scaling(store: Store) -> Scaling:
    """From all boards of a store and the paper's rows."""
    boards = {name: board(store, name) for name in SCALES}
    found: dict[tuple[str, str], dict[str, BoardRow]] = {}
    for name, made in boards.items():
        for row in made.rows:
            if row.average is not None and not row.breaches:
                found.setdefault((row.method, row.suite), {}).setdefault(name, row)
    fits = [fit(method, suite, _points(rows)) for (method, suite), rows in found.items() if len(rows) > 1]
    return Scaling(
        fits=sorted(fits, key=lambda made: -made.points[-1].average),
        carries=[
            *rank_correlations(boards),
            *[RankCorrelation(small=s, large=b, rho=rho, num_methods=None) for (s, b), rho in PUBLISHED.items()],
        ],
        half_lives=_half_lives(boards, fits),
    )


def _points(rows: Mapping[str, BoardRow]) -> list[ScalePoint]:
    return [
        ScalePoint(scale=name, samples_seen=SCALES[name].train_num_samples, average=row.average.mean)
        for name, row in rows.items()
        if row.average is not None
    ]


def fit(method: str, suite: str, points: Sequence[ScalePoint]) -> ScalingFit:
    """Least squares through two or more scales, and the prediction for the scale after the largest."""
    ordered = sorted(points, key=lambda point: point.samples_seen)
    x = np.log10([point.samples_seen for point in ordered])
    y = np.array([logit(point.average) for point in ordered])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    intercept = float(y.mean() - slope * x.mean())
    made = ScalingFit(method=method, suite=suite, points=ordered, intercept=intercept, slope=slope)
    following = [row for row in SCALES.values() if row.train_num_samples > ordered[-1].samples_seen]
    if not following:
        return made
    at = math.log10(following[0].train_num_samples)
    return made.model_copy(
        update={
            "next_scale": following[0].name,
            "predicted": expit(intercept + slope * at),
            "interval": _prediction(x, y, intercept, slope, at),
        }
    )


def _prediction(x: Floats, y: Floats, intercept: float, slope: float, at: float) -> Interval | None:
    """Student's interval for one new observation; None without a degree of freedom."""
    from scipy import stats

    freedom = len(x) - 2
    if freedom < 1:
        return None
    variance = float(((y - intercept - slope * x) ** 2).sum()) / freedom
    spread = math.sqrt(variance * (1 + 1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * spread
    middle = intercept + slope * at
    return Interval(low=expit(middle - half), high=expit(middle + half))


def rank_correlations(boards: Mapping[str, Board]) -> list[RankCorrelation]:
    """Our own runs only, where enough methods were run at both scales."""
    from scipy import stats

    means = {
        name: {row.method: row.average.mean for row in made.runs() if row.average and not row.breaches}
        for name, made in boards.items()
    }
    names, found = [name for name in means if len(means[name]) >= LEAST_COMMON], list[RankCorrelation]()
    for place, small in enumerate(names):
        for large in names[place + 1 :]:
            common = sorted(means[small].keys() & means[large].keys())
            if len(common) >= LEAST_COMMON:
                told: Any = stats.spearmanr([means[small][m] for m in common], [means[large][m] for m in common])
                found.append(RankCorrelation(small=small, large=large, rho=float(told.statistic), num_methods=len(common)))
    return found


def effective_share(passes: float, half_life: float) -> float:
    """Return the value of `passes` over the same samples relative to fresh ones, if a sample's value halves every `half_life`.

    The sum of a geometric series over the passes (Goyal et al. 2024, "Scaling Laws for Data Filtering"), by the pass.
    """
    if passes <= 1:
        return 1.0
    ratio = 0.5 ** (1 / half_life)
    return (1 - ratio**passes) / ((1 - ratio) * passes)


def half_life(loss: float, passes: float) -> float | None:
    """The half-life at which `passes` passes are worth `loss` of fresh data, by bisection; None if repeating lost nothing."""
    if loss >= 1 or passes <= 1:
        return None
    low, high = 1e-3, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if effective_share(passes, middle) > loss else (middle, high)
    return math.sqrt(low * high)


def _half_lives(boards: Mapping[str, Board], fits: Sequence[ScalingFit]) -> dict[str, float]:
    """Return each board's half-life of a sample, from the control: a repeated random subset falls behind the whole pool."""
    found: dict[str, float] = {}
    for name, made in boards.items():
        for row in (row for row in made.rows if row.role == "control" and row.average is not None):
            whole = next((r for r in made.rows if r.role == "baseline" and r.suite == row.suite and r.average), None)
            curve = None if whole is None else next((f for f in fits if (f.method, f.suite) == (whole.method, whole.suite)), None)
            if whole is None or whole.average is None or row.average is None or curve is None or curve.slope <= 0:
                continue
            worth = 10 ** ((logit(row.average.mean) - logit(whole.average.mean)) / curve.slope)
            life = half_life(worth, whole.size / row.size) if whole.size and row.size else None
            if life is not None:
                found.setdefault(name, life)
    return found


def logit(share: float) -> float:
    bounded = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))
