"""Calibration, worst classes, confusions and probes against loops that anyone can read, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, recall_score

from datacomp_core.evaluation import analysis, probes
from datacomp_core.evaluation.probes import Probes, probe

NAMES = [f"class {number}" for number in range(7)]


def outcomes(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 4, 6], count, p=[0.4, 0.3, 0.2, 0.05, 0.05])
    return np.where(random.random(count) < 0.5, labels, random.integers(0, 7, count)), labels


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_by_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.random(300).astype(np.float32)
    confidence[:2] = (0.0, 1.0)
    hits = random.random(300) < confidence
    total = 0.0
    for edge in range(15):
        inside = (confidence > np.float32(edge / 15)) & (confidence <= (edge + 1) / 15)
        inside |= (confidence == 0) & (edge == 0)
        if inside.any():
            total += inside.sum() * abs(hits[inside].mean() - confidence[inside].mean())
    assert analysis.calibration_error(confidence, hits) == pytest.approx(total / 300, abs=1e-6)
    assert analysis.calibration_error(np.ones(10, np.float32), np.ones(10, np.bool_)) == 0
    assert analysis.calibration_error(np.ones(10, np.float32), np.zeros(10, np.bool_)) == 1


def test_the_confusion_matrix_is_scikit_learns() -> None:
    predicted, labels = outcomes(0)
    matrix = np.zeros((7, 7), np.int64)
    pairs, counts = analysis.confusion(predicted, labels)
    matrix[pairs[:, 0], pairs[:, 1]] = counts
    assert np.array_equal(matrix, confusion_matrix(labels, predicted, labels=range(7)))
    off = matrix - np.diag(np.diag(matrix))
    shown = analysis.confusions(predicted, labels, NAMES)
    assert [row["count"] for row in shown] == sorted(off.ravel(), reverse=True)[:10]
    for row in shown:
        assert off[NAMES.index(row["class"]), NAMES.index(row["taken_for"])] == row["count"]
        assert row["of"] == (labels == NAMES.index(row["class"])).sum()


def test_the_worst_classes_are_those_of_lowest_recall_that_occur() -> None:
    predicted, labels = outcomes(1)
    present = [0, 1, 2, 4, 6]
    recalls = dict(zip(present, recall_score(labels, predicted, labels=present, average=None), strict=True))
    shown = analysis.worst_classes(predicted, labels, NAMES, shown=3)
    assert [row["recall"] for row in shown] == pytest.approx(sorted(recalls.values())[:3])
    assert all(recalls[row["label"]] == pytest.approx(row["recall"]) and row["class"] == NAMES[row["label"]] for row in shown)


def test_training_images_are_drawn_by_class_and_by_seed() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] + [3] * 7)
    few = probes.split(labels, np.random.default_rng((4, 0)), 4)
    assert np.bincount(labels[few]).tolist() == [4, 2, 1, 4], "a class keeps one for the test, unless it has but one"
    assert np.array_equal(few, probes.split(labels, np.random.default_rng((4, 0)), 4))
    assert not np.array_equal(few, probes.split(labels, np.random.default_rng((4, 1)), 4))
    assert np.bincount(labels[probes.split(labels, np.random.default_rng(0), None)]).tolist() == [5, 2, 1, 4]


def test_probes_learn_what_the_features_tell_and_no_more() -> None:
    torch.set_num_threads(1)  # matrices this small wait for one another's threads on a busy machine
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 200)
    centres = random.normal(size=(5, 32))
    told = centres[labels] + 0.3 * random.normal(size=(200, 32))
    features = (told / np.linalg.norm(told, axis=1, keepdims=True)).astype(np.float32)
    found = probe(Probes((1, 8), True), features, labels, "cpu")
    assert set(found) == {"few_shot_1", "few_shot_8", "linear_probe"}
    assert found["linear_probe"] > 0.97
    assert found["few_shot_8"]["mean"] >= found["few_shot_1"]["mean"] > 0.8
    assert found == probe(Probes((1, 8), True), features, labels, "cpu")
    noise = random.normal(size=(200, 32)).astype(np.float32)
    assert probe(Probes((), True), noise / np.linalg.norm(noise, axis=1, keepdims=True), labels, "cpu")["linear_probe"] < 0.4
