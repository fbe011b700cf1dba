"""Scores by image: they give the metric back, and their bootstrap is the plain one that draws images one by one."""

from __future__ import annotations

from pathlib import Path

import board_world as world
import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import recall_score

from datacomp_core.leaderboard.board import stats
from datacomp_core.leaderboard.board.board import board
from datacomp_core.leaderboard.entries import per_image_scores
from datacomp_core.leaderboard.entries.per_image_scores import PerImageScores
from datacomp_core.store import Folder, Store


def predictions(seed: int, n: int = 500, classes: int = 7) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed)
    ranked = np.stack([noise.permutation(classes) for _ in range(n)]).astype(np.int32)
    labels = np.random.default_rng(99).integers(0, classes, n).astype(np.int32)
    groups = np.random.default_rng(98).integers(0, 4, (n, 2))
    return {"labels": labels, "predicted": ranked[:, 0], "ranked": ranked[:, :5], "metadata": groups}


def test_the_values_give_the_metrics_back() -> None:
    kept = predictions(1)
    first = kept["predicted"] == kept["labels"]
    five = np.array([label in row for label, row in zip(kept["labels"], kept["ranked"], strict=True)])
    worst = [[hit[kept["metadata"][:, 0] == group].mean() for group in range(4)] for hit in (first, five)]
    expected = {
        "acc1": first.mean(),
        "acc5": five.mean(),
        "mean_per_class_recall": recall_score(kept["labels"], kept["predicted"], average="macro"),
        "acc_worst_region": min(worst[0]),
        "acc_wg": min(worst[0]),
        "acc_top5_wg": min(worst[1]),
    }
    for metric, value in expected.items():
        found = per_image_scores.of_predictions(metric, kept)
        assert found is not None
        assert found.score() == pytest.approx(value), metric
    assert per_image_scores.of_predictions("F1-macro_all", kept) is None


def test_retrieval_draws_an_image_with_its_captions() -> None:
    noise = np.random.default_rng(0)
    by_image, by_text = noise.random((40, 3)) < 0.4, noise.random((100, 3)) < 0.3
    image_of = np.sort(np.concatenate([np.arange(40), noise.integers(0, 40, 60)]))
    found = per_image_scores.of_predictions(
        "mean_recall@5", {"text_found": by_image, "image_found": by_text, "image_of_text": image_of}
    )
    assert found is not None
    assert len(found.values) == 40
    assert found.score() == pytest.approx(0.5 * by_image[:, 1].mean() + 0.5 * by_text[:, 1].mean())


def test_only_instances_with_ten_candidates_count_for_winogavil() -> None:
    kept = {"jaccard": np.array([0.2, 0.4, 1.0], np.float32), "candidates": np.array([10, 12, 5], np.int16)}
    found = per_image_scores.of_predictions("jaccard_score_10-12", kept)
    assert found is not None
    assert found.score() == pytest.approx(0.3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = {name: per_image_scores.of_predictions(name, predictions(3)) for name in ("acc1", "mean_per_class_recall", "acc_wg")}
    made["real"] = PerImageScores(np.array([0.5, 0.25]), np.zeros(2, np.int64))
    per_image_scores.write(Folder(tmp_path), {name: found for name, found in made.items() if found})
    read = per_image_scores.read(Folder(tmp_path))
    assert read.keys() == made.keys()
    for name, found in made.items():
        assert found is not None
        assert read[name].score() == pytest.approx(found.score())
        assert read[name].combine == found.combine
        assert np.array_equal(read[name].strata, found.strata)
    assert per_image_scores.read(Folder(tmp_path / "none")) == {}


def test_a_score_that_the_predictions_do_not_give_is_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    world.write_predictions(folder, "flags", 0.25)
    assert per_image_scores.gather(folder, {"tiny/flags": ("acc5", 0.25), "tiny/digits": ("acc5", 0.1)}).keys() == {"tiny/flags"}
    assert per_image_scores.gather(folder, {"tiny/flags": ("acc5", 0.26)}) == {}


def test_the_bootstrap_over_images_is_scipys() -> None:
    ours, theirs = (per_image_scores.of_predictions("acc1", predictions(seed)) for seed in (1, 2))
    assert ours is not None
    assert theirs is not None
    interval, tasks = stats.image_bootstrap({"t": ours.score() - theirs.score()}, [{"t": ours}], [{"t": theirs}])
    reference = scipy_stats.bootstrap(
        (ours.values, theirs.values),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert tasks == 1
    assert interval is not None
    assert interval.low == pytest.approx(reference.low, abs=0.006)
    assert interval.high == pytest.approx(reference.high, abs=0.006)


@pytest.mark.parametrize("metric", ["mean_per_class_recall", "acc_wg"])
def test_classes_and_groups_are_resampled_within(metric: str) -> None:
    """Against a loop that draws images one by one inside each class or group, for two seeds against one."""
    runs = [per_image_scores.of_predictions(metric, predictions(seed)) for seed in (1, 2, 3)]
    assert all(runs)
    several = [run for run in runs if run]
    interval, _ = stats.image_bootstrap({"t": 0.0}, [{"t": run} for run in several[:2]], [{"t": several[2]}])
    noise, strata, drawn = np.random.default_rng(5), several[0].strata, []
    for _ in range(1500):
        picks = np.concatenate([noise.choice(np.flatnonzero(strata == s), (strata == s).sum()) for s in np.unique(strata)])
        scores = [PerImageScores(run.values[picks], run.strata[picks], run.combine).score() for run in several]
        drawn.append((scores[0] + scores[1]) / 2 - scores[2])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.012)
    assert interval.high == pytest.approx(high, abs=0.012)


def test_a_task_without_images_keeps_its_difference() -> None:
    run = {"a": PerImageScores(np.ones(50), np.zeros(50, np.int64))}
    interval, tasks = stats.image_bootstrap({"a": 0.0, "b": 0.5}, [run], [run])
    assert tasks == 1
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))
    assert stats.image_bootstrap({"b": 0.5}, [run], [run]) == (None, 0)
    other = {"a": PerImageScores(np.ones(60), np.zeros(60, np.int64))}
    assert stats.image_bootstrap({"a": 0.0}, [run], [other]) == (None, 0), "other images cannot be paired"


def test_the_board_judges_over_images_too(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    world.sweep(store, seeds=2)
    row = next(row for row in board(store, "tiny").rows if row.method == "clip_score")
    assert row.baseline is not None
    assert row.baseline.num_image_tasks == len(world.TASKS)
    assert row.baseline.over_images is not None
    assert row.baseline.over_images.low < row.baseline.difference < row.baseline.over_images.high
