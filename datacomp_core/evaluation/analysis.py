"""Computes what a score does not show: calibration, the weakest classes, the confusions. Takes arrays, returns plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.evaluation.metrics import Ints, require_samples

BINS = 15
SHOWN = 10


def calibration_error(confidence: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017): mean |accuracy - confidence| over equally wide bins, weighted by size.

    `confidence` (n,) is the softmax of the chosen class; a bin holds its upper edge.
    """
    require_samples(len(hits), "calibration error")
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    right = np.bincount(place, weights=hits, minlength=bins)
    sure = np.bincount(place, weights=confidence, minlength=bins)
    return float(np.abs(right - sure).sum() / len(hits))


def confusion(predicted: Ints, labels: Ints) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cells of the confusion matrix that are not empty: (label, predicted) pairs (m, 2), sorted, and their counts (m,)."""
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1).astype(np.int64), axis=0, return_counts=True)
    return pairs, counts.astype(np.int64)


def confusions(predicted: Ints, labels: Ints, names: Sequence[str], shown: int = SHOWN) -> list[dict[str, Any]]:
    """Return the most frequent errors: which class is confused with which, how often, and of how many."""
    pairs, counts = confusion(predicted, labels)
    wrong = pairs[:, 0] != pairs[:, 1]
    pairs, counts = pairs[wrong], counts[wrong]
    sizes = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")[:shown]
    return [
        {"class": names[a], "taken_for": names[b], "count": int(counts[row]), "of": int(sizes[a])}
        for row, (a, b) in ((row, pairs[row]) for row in order)
    ]


def worst_classes(predicted: Ints, labels: Ints, names: Sequence[str], shown: int = SHOWN) -> list[dict[str, Any]]:
    """The classes of lowest recall among those that occur, the larger first where recalls are equal."""
    sizes = np.bincount(labels, minlength=len(names))
    right = np.bincount(labels, weights=predicted == labels, minlength=len(names))
    there = np.flatnonzero(sizes)
    recall = right[there] / sizes[there]
    order = np.lexsort((there, -sizes[there], recall))[:shown]
    worst = ((int(there[row]), float(recall[row])) for row in order)
    return [{"class": names[label], "label": label, "recall": value, "count": int(sizes[label])} for label, value in worst]
