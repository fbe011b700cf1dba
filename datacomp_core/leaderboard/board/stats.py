"""Is one method better than another, or is it noise? Pure functions on small arrays, seeded; scores are fractions.

Three sources of noise are kept apart: which tasks one happens to ask (a paired bootstrap over tasks), which seeds one
happens to train with (Welch's interval over seeds) and which test images one happens to have (a paired bootstrap over the
images of each task, where their predictions are kept). A difference counts only if it stands out from all that are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.leaderboard.entries.per_image_scores import PerImageScores

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
NUM_IMAGE_RESAMPLES = 1_000
SEED = 0
Floats = npt.NDArray[np.float64]
Outcome = Literal["better", "worse", "tied"]


class Interval(BaseModel):
    """Lowest and highest plausible difference at `CONFIDENCE`."""

    model_config = ConfigDict(frozen=True)
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Verdict(BaseModel):
    """One method against another: `difference` is the first's average less the second's."""

    model_config = ConfigDict(frozen=True)
    against: str = Field(description="The other method's name.")
    against_row: str = Field(default="", description="The other row's key.")
    outcome: Outcome
    difference: float
    over_tasks: Interval
    over_seeds: Interval | None = Field(description="None if neither side, nor any row of the board, has two seeds.")
    over_images: Interval | None = Field(default=None, description="None if no task has predictions on both sides.")
    num_tasks: int
    num_image_tasks: int = Field(default=0, description="Tasks whose images were resampled; other tasks stay unchanged.")
    basis: str = Field(description="The basis of the verdict, in words.")


def paired_bootstrap(differences: Sequence[float] | Floats, *, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> Interval:
    """Percentile interval of the mean of paired differences, resampling the pairs (shape (n,), n >= 2)."""
    values = np.asarray(differences, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (num_resamples, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


class SeedVariance(BaseModel):
    """Variance of one run's average over seeds, and the degrees of freedom it was estimated with."""

    model_config = ConfigDict(frozen=True)
    variance: float
    freedom: int
    num_senders: int = Field(
        default=1, description="Number of senders of a shared board whose median this is; 1: from the rows of one sender."
    )


def pooled_spread(methods: Sequence[Sequence[float]]) -> SeedVariance | None:
    """The seed noise common to all methods that have several seeds; None if none has."""
    several = [np.asarray(method, np.float64) for method in methods if len(method) > 1]
    freedom = sum(len(method) - 1 for method in several)
    if not freedom:
        return None
    return SeedVariance(
        variance=float(sum(method.var(ddof=1) * (len(method) - 1) for method in several)) / freedom, freedom=freedom
    )


Borrowed = tuple[SeedVariance | None, SeedVariance | None]
"""The noise that each side takes if it has one seed."""


def seed_interval(ours: Sequence[float], theirs: Sequence[float], borrowed: Borrowed = (None, None)) -> Interval | None:
    """Interval of the difference of two means over seeds, unequal variances (Welch).

    A side with one seed takes the noise that it borrows, else the noise of the other side; None if nothing is known.
    """
    from scipy import stats

    means: list[tuple[float, int]] = []
    for side, taken, other in zip((ours, theirs), borrowed, (theirs, ours), strict=True):
        spread = pooled_spread([side]) or taken or pooled_spread([other])
        if spread is None:
            return None
        means.append((spread.variance / len(side), spread.freedom))
    difference = float(np.mean(ours) - np.mean(theirs))
    variance = sum(v for v, _ in means)
    if variance == 0:
        return Interval(low=difference, high=difference)
    freedom = variance**2 / sum(v**2 / f for v, f in means)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * variance**0.5
    return Interval(low=difference - half, high=difference + half)


Images = Sequence[Mapping[str, PerImageScores]]
"""The score of every image, by task: one mapping for each run."""


def image_bootstrap(
    differences: Mapping[str, float], ours: Images, theirs: Images, *, num_resamples: int = NUM_IMAGE_RESAMPLES, seed: int = SEED
) -> tuple[Interval | None, int]:
    """Percentile interval of the mean difference over tasks, resampling the images of each task in pairs, and over how many.

    A task that some run has no hits for keeps its difference in every resample. Images with equal scores are drawn together
    (a multinomial draw over the distinct outcomes has the distribution of drawing images one by one).
    """
    draws, resampled = np.zeros(num_resamples), 0
    generator = np.random.default_rng(seed)
    for task, difference in differences.items():
        runs = [[run[task] for run in side if task in run] for side in (ours, theirs)]
        several = [*runs[0], *runs[1]]
        complete = len(runs[0]) == len(ours) > 0 and len(runs[1]) == len(theirs) > 0
        if complete and all(hits.pairs_with(several[0]) for hits in several):
            draws += _resampled(runs[0], runs[1], generator, num_resamples)
            resampled += 1
        else:
            draws += difference
    if not resampled:
        return None, 0
    low, high = np.quantile(draws / len(differences), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high)), resampled


def _resampled(
    ours: list[PerImageScores], theirs: list[PerImageScores], generator: np.random.Generator, num_resamples: int
) -> Floats:
    """The task's difference in each resample, shape (num_resamples,). Each class or group keeps its number of images."""
    strata, combine = ours[0].strata, ours[0].combine
    scored = np.stack([hits.values for hits in [*ours, *theirs]])
    if combine == "mean":  # the difference is itself a mean over images: its distinct values are few
        scored = (scored[: len(ours)].mean(axis=0) - scored[len(ours) :].mean(axis=0))[None]
    means = [_stratum_means(scored[:, strata == s], generator, num_resamples) for s in np.unique(strata)]
    if combine == "mean":
        return np.mean(means, axis=0)[0]
    least = np.min(means, axis=0)
    return least[: len(ours)].mean(axis=0) - least[len(ours) :].mean(axis=0)


def _stratum_means(scored: Floats, generator: np.random.Generator, num_resamples: int) -> Floats:
    """Mean of each row of `scored` (rows, n) over its resampled images, shape (rows, num_resamples)."""
    outcomes, counts = np.unique(scored, axis=1, return_counts=True)
    drawn = generator.multinomial(scored.shape[1], counts / scored.shape[1], num_resamples)
    return outcomes @ drawn.T / scored.shape[1]


def compare(
    ours: Mapping[str, Sequence[float]],
    theirs: Mapping[str, Sequence[float]],
    against: str,
    against_row: str = "",
    borrowed: Borrowed = (None, None),
    images: tuple[Images, Images] = ((), ()),
) -> Verdict | None:
    """The verdict on two methods, each a mapping of task to its scores by seed. None if fewer than two tasks are shared.

    `images` are the hits of the runs on both sides, where they are kept.
    """
    shared = [task for task in ours if ours[task] and theirs.get(task)]
    if len(shared) < 2:
        return None
    differences = [float(np.mean(ours[task]) - np.mean(theirs[task])) for task in shared]
    over_tasks = paired_bootstrap(differences)
    over_seeds = seed_interval(_averages(ours, shared), _averages(theirs, shared), borrowed)
    over_images, num_image_tasks = image_bootstrap(dict(zip(shared, differences, strict=True)), *images)
    difference = float(np.mean(differences))
    known = [interval for interval in (over_tasks, over_seeds, over_images) if interval is not None]
    clear = all(interval.excludes_zero for interval in known)
    return Verdict(
        against=against,
        against_row=against_row,
        outcome="tied" if not clear else "better" if difference > 0 else "worse",
        difference=difference,
        over_tasks=over_tasks,
        over_seeds=over_seeds,
        over_images=over_images,
        num_tasks=len(shared),
        num_image_tasks=num_image_tasks,
        basis=_basis(len(shared), (_seeds(ours, shared), _seeds(theirs, shared)), over_seeds, borrowed),
    )


def _averages(scores: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> list[float]:
    """One average a seed, over the shared tasks."""
    return [float(np.mean(values)) for values in zip(*(scores[task] for task in tasks), strict=False)]


def _seeds(scores: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> int:
    return min(len(scores[task]) for task in tasks)


def _basis(num_tasks: int, seeds: tuple[int, int], over_seeds: Interval | None, borrowed: Borrowed) -> str:
    text = f"{num_tasks} tasks, {seeds[0]} against {seeds[1]} seed{'s' if seeds[1] != 1 else ''}"
    if over_seeds is None:
        return text + "; seed noise unknown"
    if min(seeds) > 1:
        return text
    taken = next((spread for count, spread in zip(seeds, borrowed, strict=True) if count < 2 and spread is not None), None)
    if taken is None:
        return text + "; seed noise taken from the other side"
    whose = "the other methods" if taken.num_senders == 1 else f"the rows of {taken.num_senders} senders (their median)"
    return text + f"; seed noise ({taken.variance**0.5:.4f}) taken from {whose}"
