"""The metrics, pure: arrays in, numbers out. Each names the function of the reference that it equals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]


def accuracy(hits: npt.NDArray[np.bool_]) -> float:
    """Share of hits, shape (n,)."""
    return float(np.count_nonzero(hits)) / len(hits)


def topk_hits(ranked: Ints, labels: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether the label is among the first k of `ranked` (n, >= k): clip_benchmark's `accuracy`."""
    return (ranked[:, :k] == labels[:, None]).any(axis=1)


def mean_per_class_recall(predicted: Ints, labels: Ints) -> float:
    """Mean recall over the classes that occur in `labels`: scikit-learn's `balanced_accuracy_score`."""
    present, place = np.unique(labels, return_inverse=True)
    right = np.bincount(place, weights=predicted == labels, minlength=len(present))
    return float(np.mean(right / np.bincount(place)))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Mean F1 over the classes that occur in `labels`; others count only as errors: wilds' `F1(average="macro")`."""
    scores: list[float] = []
    for cls in np.unique(labels):
        both = np.count_nonzero((predicted == cls) & (labels == cls))
        scores.append(2 * both / (np.count_nonzero(predicted == cls) + np.count_nonzero(labels == cls)))
    return float(np.mean(scores))


def group_means(values: npt.NDArray[np.bool_], groups: Ints, num_groups: int) -> tuple[list[float | None], list[int]]:
    """Mean and count of each group 0..num_groups-1; None for an empty one. float32 sums, as in the reference's wilds patch."""
    counts = np.bincount(groups, minlength=num_groups)
    sums = np.bincount(groups, weights=values, minlength=num_groups).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts.astype(np.float32)
    return [float(mean) if count else None for mean, count in zip(means, counts, strict=True)], [int(c) for c in counts]


def jaccard(chosen: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two boolean masks; 0 where both are empty: scikit-learn's `jaccard_score`."""
    union = np.count_nonzero(chosen | right)
    return float(np.count_nonzero(chosen & right)) / union if union else 0.0
