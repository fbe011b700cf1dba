"""Curves over scales against scipy, and what the paper's own rows say of rank and repetition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datacomp_core.leaderboard.board.rows import Board, BoardRow, BoardScore
from datacomp_core.leaderboard.board.scaling import (
    ScalePoint,
    effective_share,
    expit,
    fit,
    half_life,
    logit,
    rank_correlations,
    scaling,
)
from datacomp_core.scales import SCALES
from datacomp_core.store import Folder, Store


def points(*averages: float) -> list[ScalePoint]:
    names = ("small", "medium", "large", "xlarge")
    return [
        ScalePoint(scale=name, samples_seen=SCALES[name].train_num_samples, average=average)
        for name, average in zip(names, averages, strict=False)
    ]


def test_the_line_is_that_of_linregress_and_the_interval_covers_as_it_should() -> None:
    made = fit("m", "s", points(0.132, 0.258, 0.437))
    x = np.log10([point.samples_seen for point in made.points])
    reference = scipy_stats.linregress(x, [logit(point.average) for point in made.points])
    assert (made.slope, made.intercept) == pytest.approx((reference.slope, reference.intercept))
    assert made.next_scale == "xlarge"
    assert made.predicted is not None
    assert made.interval is not None
    assert made.interval.low < 0.621 < made.interval.high, "the paper's own score at xlarge"
    noise, inside = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = fit("m", "s", points(*[expit(v) for v in -8.4 + 0.9 * x + noise.normal(0, 0.05, 3)]))
        assert drawn.interval is not None
        inside += drawn.interval.low < expit(-8.4 + 0.9 * math.log10(12.8e9) + noise.normal(0, 0.05)) < drawn.interval.high
    assert 0.91 < inside / 400 < 0.98


def test_two_scales_fix_a_line_and_leave_no_interval() -> None:
    made = fit("m", "s", points(0.1, 0.2))
    assert made.interval is None
    assert made.predicted == pytest.approx(expit(2 * logit(0.2) - logit(0.1)))
    assert fit("m", "s", points(0.1, 0.2, 0.3, 0.4)).next_scale == ""


def test_passes_are_worth_a_geometric_series() -> None:
    assert effective_share(1, 3) == 1
    assert effective_share(3, 2) == pytest.approx((1 + 0.5**0.5 + 0.5) / 3)
    for life in (0.5, 3.6, 40.0):
        assert half_life(effective_share(4, life), 4) == pytest.approx(life, rel=1e-6)
    assert half_life(1.1, 4) is None
    assert half_life(0.9, 1) is None


def test_the_papers_rows_give_curves_and_the_worth_of_repeats(tmp_path: Path) -> None:
    made = scaling(Store(Folder(tmp_path / "none")))
    curves = {curve.method: curve for curve in made.fits}
    assert {point.scale for point in curves["No filtering"].points} == {"small", "medium", "large", "xlarge"}
    assert made.half_lives.keys() == {"medium", "large"}, "at small the random half was no worse"
    assert all(1 < life < 20 for life in made.half_lives.values())
    assert {(c.small, c.large): c.rho for c in made.carries}[("small", "large")] == 0.708


def a_board(averages: dict[str, float | None], **more: dict[str, object]) -> Board:
    """Runs by method; `more` are fields of single rows."""
    rows = [
        BoardRow.model_construct(
            **{
                "kind": "run",
                "method": method,
                "suite": "s",
                "scores": {} if mean is None else {"average": BoardScore(mean=mean)},
                "breaches": [],
                **more.get(method, {}),
            }
        )
        for method, mean in averages.items()
    ]
    return Board.model_construct(suite="s", rows=rows)


def test_own_methods_that_ran_at_two_scales_are_ranked_at_both() -> None:
    """Against scipy, over the methods that two boards share; of four at least."""
    small = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5}
    medium = {"b": 0.21, "a": 0.35, "e": 0.61, "d": 0.44, "f": 0.9, "g": 0.1}
    large = {"f": 0.5, "g": 0.2, "a": 0.3, "b": 0.4, "c": 0.1}
    few = {"a": 0.1, "b": 0.2, "c": 0.3}
    boards = {name: a_board(rows) for name, rows in (("small", small), ("few", few), ("medium", medium), ("large", large))}
    found = {(one.small, one.large): one for one in rank_correlations(boards)}
    assert found.keys() == {("small", "medium"), ("medium", "large")}  # small and large share three
    for (one, two), names in ((("small", "medium"), "abde"), (("medium", "large"), "abfg")):
        sides = {"small": small, "medium": medium, "large": large}
        expected = scipy_stats.spearmanr([sides[one][name] for name in names], [sides[two][name] for name in names])
        assert found[(one, two)].rho == pytest.approx(expected.statistic)
        assert found[(one, two)].num_methods == 4


def test_rows_that_break_a_rule_or_have_no_average_do_not_count_for_the_correlation() -> None:
    small = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    for four_or_more in (small, small | {"e": 0.5}):
        assert len(rank_correlations({"small": a_board(four_or_more), "medium": a_board(four_or_more)})) == 1
    for change in ({"d": {"breaches": ["x"]}}, {"d": {"kind": "reference"}}, {"d": {"suite": "other"}}, {"d": {"scores": {}}}):
        assert rank_correlations({"small": a_board(small), "medium": a_board(small, **change)}) == []
