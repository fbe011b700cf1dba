"""The statistics against scipy and against draws whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datacomp_core.leaderboard.board import stats


@pytest.mark.parametrize("size", [7, 38])
def test_bootstrap_agrees_with_scipy(size: int) -> None:
    differences = np.random.default_rng(size).normal(0.01, 0.02, size)
    ours = stats.paired_bootstrap(differences, num_resamples=50_000)
    theirs = scipy_stats.bootstrap(
        (differences,), np.mean, n_resamples=50_000, method="percentile", confidence_level=0.95, rng=np.random.default_rng(5)
    ).confidence_interval
    resolution = 0.02 * differences.std()  # Monte Carlo error of a 2.5 % quantile at 50,000 draws is about half of this
    assert ours.low == pytest.approx(theirs.low, abs=resolution)
    assert ours.high == pytest.approx(theirs.high, abs=resolution)


def test_bootstrap_is_seeded() -> None:
    differences = np.random.default_rng(9).normal(0, 1, 20)
    assert stats.paired_bootstrap(differences) == stats.paired_bootstrap(differences)
    assert stats.paired_bootstrap(differences, seed=1) != stats.paired_bootstrap(differences)


def test_seed_interval_is_welch() -> None:
    ours, theirs = [0.171, 0.162, 0.180], [0.10, 0.12, 0.09, 0.11]
    interval = stats.seed_interval(ours, theirs)
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_pooled_spread_is_that_of_an_analysis_of_variance() -> None:
    groups = [[0.1, 0.2, 0.15], [0.4, 0.45], [0.9]]
    pooled = stats.pooled_spread(groups)
    assert pooled is not None
    within = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups)
    assert pooled.freedom == 3
    assert pooled.variance == pytest.approx(within / 3)


def test_one_seed_alone_has_no_seed_interval_and_borrows_the_others() -> None:
    assert stats.seed_interval([0.2], [0.1]) is None
    pooled = stats.SeedVariance(variance=0.0001, freedom=6)
    interval = stats.seed_interval([0.2], [0.1], (pooled, pooled))
    assert interval is not None
    half = scipy_stats.t.ppf(0.975, 12) * (2 * 0.0001) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((0.1 - half, 0.1 + half))


def test_one_seed_against_several_borrows_theirs_if_nothing_else_is_known() -> None:
    theirs = [0.10, 0.12, 0.09, 0.11]
    interval = stats.seed_interval([0.2], theirs)
    assert interval is not None
    variance, freedom = np.var(theirs, ddof=1), 3
    total = variance * (1 + 1 / 4)
    welch = total**2 / (variance**2 / freedom + (variance / 4) ** 2 / freedom)
    half = scipy_stats.t.ppf(0.975, welch) * total**0.5
    assert (interval.low, interval.high) == pytest.approx((0.2 - np.mean(theirs) - half, 0.2 - np.mean(theirs) + half))


def _scores(center: float, noise: np.random.Generator, spread: float) -> dict[str, list[float]]:
    shifts = [noise.normal(0, spread) for _ in range(3)]
    return {f"t{i}": [center + 0.02 * i + shift for shift in shifts] for i in range(7)}


def test_verdicts_of_methods_that_differ() -> None:
    noise = np.random.default_rng(3)
    low, high = _scores(0.1, noise, 0.002), _scores(0.2, noise, 0.002)
    better, worse = stats.compare(high, low, "low"), stats.compare(low, high, "high")
    assert better is not None
    assert worse is not None
    assert (better.outcome, worse.outcome) == ("better", "worse")
    assert better.difference == pytest.approx(-worse.difference)


def test_equal_methods_are_tied_about_as_often_as_the_confidence_says() -> None:
    """Both intervals must exclude zero, so false alarms come at most at the nominal rate (with room for 200 draws)."""
    noise = np.random.default_rng(0)
    outcomes = []
    for _ in range(200):
        verdict = stats.compare(_scores(0.1, noise, 0.01), _scores(0.1, noise, 0.01), "other")
        assert verdict is not None
        outcomes.append(verdict.outcome)
    assert outcomes.count("tied") >= 184


def test_a_gain_on_one_task_alone_is_a_tie() -> None:
    base = {f"t{i}": [0.1, 0.1, 0.1] for i in range(7)}
    lucky = {**base, "t0": [0.5, 0.5, 0.5]}
    verdict = stats.compare(lucky, base, "base")
    assert verdict is not None
    assert verdict.outcome == "tied"


def test_fewer_than_two_shared_tasks_give_no_verdict() -> None:
    assert stats.compare({"a": [0.1]}, {"a": [0.2]}, "other") is None
    assert stats.compare({"a": [0.1], "b": []}, {"a": [0.2], "b": [0.1]}, "other") is None


@pytest.mark.parametrize(
    ("seeds", "borrowed", "said"),
    [
        ((3, 3), (None, None), "7 tasks, 3 against 3 seeds"),
        ((3, 1), (None, None), "7 tasks, 3 against 1 seed; seed noise taken from the other side"),
        ((1, 3), (None, None), "7 tasks, 1 against 3 seeds; seed noise taken from the other side"),
        ((1, 1), (None, None), "7 tasks, 1 against 1 seed; seed noise unknown"),
        ((1, 3), (0.0004, None), "7 tasks, 1 against 3 seeds; seed noise (0.0200) taken from the other methods"),
        ((3, 1), (None, 0.0009), "7 tasks, 3 against 1 seed; seed noise (0.0300) taken from the other methods"),
    ],
)
def test_a_verdict_says_whose_noise_it_knows(
    seeds: tuple[int, int], borrowed: tuple[float | None, float | None], said: str
) -> None:
    noise = np.random.default_rng(3)
    sides = [{task: scores[:number] for task, scores in _scores(0.1, noise, 0.02).items()} for number in seeds]
    spread = tuple(None if one is None else stats.SeedVariance(variance=one, freedom=6) for one in borrowed)
    verdict = stats.compare(*sides, "other", borrowed=spread)
    assert verdict is not None
    assert verdict.basis == said


def test_the_noise_of_several_senders_is_named_as_theirs() -> None:
    spread = stats.SeedVariance(variance=0.0004, freedom=6, num_senders=3)
    one = {f"t{task}": [0.1 + 0.01 * task] for task in range(4)}
    verdict = stats.compare(one, one, "other", borrowed=(spread, spread))
    assert verdict is not None
    assert verdict.basis == "4 tasks, 1 against 1 seed; seed noise (0.0200) taken from the rows of 3 senders (their median)"
