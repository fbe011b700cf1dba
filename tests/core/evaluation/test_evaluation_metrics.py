"""The metrics against scikit-learn and clip_benchmark, whose own functions most of them are, and against plain loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, jaccard_score

from datacomp_core.errors import DataError
from datacomp_core.evaluation import metrics
from datacomp_core.evaluation.analysis import calibration_error
from datacomp_core.evaluation.protocols import PROTOCOLS
from datacomp_core.evaluation.retrieval import KS, recalled


def f1_by_loop(predicted: metrics.Ints, labels: metrics.Ints) -> float:
    """From counts alone."""
    scores: list[float] = []
    for cls in np.unique(labels):
        both = np.count_nonzero((predicted == cls) & (labels == cls))
        scores.append(2 * both / (np.count_nonzero(predicted == cls) + np.count_nonzero(labels == cls)))
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(20))
def test_recall_and_f1_to_the_last_bit(seed: int) -> None:
    """Over the classes that occur; a predicted class that does not is only an error. As before they were scikit-learn's own."""
    random = np.random.default_rng(seed)
    labels = random.choice([1, 2, 5, 9], 200).astype(np.int32)
    predicted = random.integers(0, 12, 200).astype(np.int32)
    present = np.unique(labels)
    assert metrics.macro_f1(predicted, labels) == f1_by_loop(predicted, labels)
    recalls = [np.count_nonzero((predicted == cls) & (labels == cls)) / np.count_nonzero(labels == cls) for cls in present]
    assert metrics.mean_per_class_recall(predicted, labels) == float(np.mean(recalls))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that do not occur: why it is not called
        assert metrics.mean_per_class_recall(predicted, labels) == balanced_accuracy_score(labels, predicted)
    assert metrics.accuracy(predicted, labels) == float((predicted == labels).mean())


def test_class_numbers_of_strangers_do_not_ask_for_memory() -> None:
    labels = np.arange(0, 2_000_000_000, 20_000, dtype=np.int32)  # 100,000 classes: a table of all against all would be 80 GB
    predicted = labels.copy()
    predicted[::2] += 1
    assert metrics.mean_per_class_recall(predicted, labels) == metrics.accuracy(predicted, labels) == 0.5
    assert metrics.macro_f1(predicted, labels) == 0.5


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_jaccard_of_all_rows_is_scikit_learns_of_each(rows: int) -> None:
    random = np.random.default_rng(rows)
    chosen, right = random.random((rows, 10)) < 0.4, random.random((rows, 10)) < 0.4
    right[:, 0] = True
    single = [jaccard_score(b, a) for a, b in zip(chosen, right, strict=True)]
    assert metrics.jaccard(chosen, right).tolist() == single
    padded = [np.pad(masks, ((0, 0), (0, 3))) for masks in (chosen, right)]
    assert metrics.jaccard(*padded).tolist() == single, "rows of fewer candidates are filled up with False"
    assert metrics.jaccard(np.zeros((rows, 3), bool), np.zeros((rows, 3), bool)).tolist() == [0.0] * rows


@pytest.mark.parametrize("distinct", [3, 1000])
def test_recall_is_clip_benchmarks_over_all_candidates(distinct: int) -> None:
    """Also where scores tie."""
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    torch.manual_seed(0)
    image_of = torch.arange(30).repeat_interleave(3)
    scores = torch.randint(0, distinct, (90, 30)).float() + 0.3 * torch.nn.functional.one_hot(image_of)
    positive: Any = torch.nn.functional.one_hot(image_of).bool()
    by_text, by_image = recalled(scores, image_of)
    for place, k in enumerate(KS):
        for ours, theirs, pairs in ((by_text, scores, positive), (by_image, scores.T, positive.T)):
            wanted = batchify(recall_at_k, theirs, pairs, 64, "cpu", k=k) > 0
            assert ours[:, place].tolist() == wanted.tolist()
    assert 0 < by_text[:, 0].mean() < by_text[:, 2].mean()


def test_topk_hits_are_the_mean_of_clip_benchmarks_accuracy() -> None:
    """Whose last line numpy 2.4 refuses; once it does not, it can be used."""
    from clip_benchmark.metrics.zeroshot_classification import accuracy

    logits, labels = torch.rand(50, 8), torch.randint(0, 8, (50,))
    ranked = logits.topk(5, 1, True, True)[1].numpy()
    with pytest.raises(TypeError, match="0-dimensional"):
        accuracy(logits, labels, (1, 5))
    order = logits.argsort(dim=1, descending=True)
    for k in (1, 5):
        wanted = (order[:, :k] == labels[:, None]).any(dim=1).double().mean().item()
        assert metrics.hit_rate(metrics.topk_hits(ranked, labels.numpy(), k)) == wanted


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


NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        (lambda: metrics.accuracy(NONE, NONE), "accuracy"),
        (lambda: metrics.hit_rate(NONE.astype(bool)), "share of hits"),
        (lambda: metrics.hit_rate(metrics.topk_hits(NONE.reshape(0, 5), NONE, 5)), "share of hits"),
        (lambda: metrics.mean_per_class_recall(NONE, NONE), "recall"),
        (lambda: metrics.macro_f1(NONE, NONE), "F1"),
        (lambda: metrics.jaccard(np.zeros((0, 3), bool), np.zeros((0, 3), bool)), "Jaccard index"),
        (lambda: metrics.jaccard(np.zeros((2, 0), bool), np.zeros((2, 0), bool)), "Jaccard index"),
        (lambda: metrics.recall_hits(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)), "recall"),
        (lambda: metrics.grouped("acc", NONE.astype(bool), {"a": NONE}), "mean of acc"),
        (lambda: recalled(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "recall"),
        (lambda: recalled(torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64)), "recall"),
        (lambda: calibration_error(NONE.astype(np.float32), NONE.astype(bool)), "calibration error"),
    ],
)
def test_without_samples_every_metric_says_so_in_one_sentence(compute: Callable[[], object], told: str) -> None:
    with pytest.raises(DataError, match=rf"^there is no sample, so the {told} is not defined: evaluate at least one$"):
        compute()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_predictions_without_samples_are_refused_by_every_protocol(protocol: str) -> None:
    """As a stranger's bundle may have them: every array that a protocol keeps, and no row in it."""
    kept: dict[str, Any] = dict.fromkeys(("labels", "predicted", "race", "gender", "age", "toxic", "candidates"), NONE)
    kept |= {"ranked": NONE.reshape(0, 5), "metadata": NONE.reshape(0, 20), "jaccard": NONE.astype(float)}
    kept |= {"image_found": np.zeros((0, 3), bool), "text_found": np.zeros((0, 3), bool), "image_of_text": NONE}
    with pytest.raises(DataError):
        PROTOCOLS[protocol].metrics_of(kept)
