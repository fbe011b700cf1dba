"""The metrics against scikit-learn, and against loops that anyone can read."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, jaccard_score, recall_score

from datacomp_core.evaluation import metrics


@pytest.mark.parametrize("seed", range(5))
def test_recall_and_f1_are_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predicted = random.choice([1, 2, 5, 9], 200), random.integers(0, 12, 200)
    present = np.unique(labels)
    assert metrics.mean_per_class_recall(predicted, labels) == pytest.approx(
        recall_score(labels, predicted, average="macro", labels=present), abs=1e-12
    )
    known = random.choice(present, 200)
    assert metrics.mean_per_class_recall(known, labels) == pytest.approx(balanced_accuracy_score(labels, known), abs=1e-12)
    assert metrics.macro_f1(predicted, labels) == pytest.approx(
        f1_score(labels, predicted, average="macro", labels=present), abs=1e-12
    )


def test_jaccard_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.random(10) < 0.4, random.random(10) < 0.4
        a[0] = True
        assert metrics.jaccard(a, b) == pytest.approx(jaccard_score(b, a), abs=1e-12)
    assert metrics.jaccard(np.zeros(3, bool), np.zeros(3, bool)) == 0


def test_topk_hits() -> None:
    ranked = np.array([[3, 1, 0], [2, 0, 1]])
    assert metrics.topk_hits(ranked, np.array([1, 2]), 1).tolist() == [False, True]
    assert metrics.topk_hits(ranked, np.array([1, 2]), 2).tolist() == [True, True]


def test_groups_by_loop() -> None:
    random = np.random.default_rng(3)
    hits, a, b = random.random(300) < 0.5, random.integers(0, 3, 300), random.choice([0, 1, 3], 300)
    found = metrics.grouped("acc", hits, {"a": a, "b": b})
    assert found["acc_avg"] == pytest.approx(hits.mean())
    worst = 1.0
    for i in range(3):
        for j in range(4):
            inside = (a == i) & (b == j)
            assert found[f"count_b:{j}_a:{i}"] == inside.sum()
            if inside.any():
                assert found[f"acc_b:{j}_a:{i}"] == pytest.approx(hits[inside].mean(), abs=1e-7)
                worst = min(worst, hits[inside].mean())
            else:
                assert found[f"acc_b:{j}_a:{i}"] is None
    assert found["acc_wg"] == pytest.approx(worst, abs=1e-7)
