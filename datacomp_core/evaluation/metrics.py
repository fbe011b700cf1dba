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


def grouped(name: str, values: npt.NDArray[np.bool_], fields: dict[str, Ints]) -> dict[str, float | int | None]:
    """A mean over all, over each group and over the worst group that has a sample: wilds' `standard_group_eval`.

    `fields` names the metadata that is combined into groups, the first varying fastest. Keys are wilds' own:
    `<name>_avg`, `<name>_<field>:<i>` and `count_<field>:<i>` (fields in reverse order), `<name>_wg`.
    """
    sizes = {field: int(column.max()) + 1 for field, column in fields.items()}
    groups = np.zeros(len(values), np.int64)
    factor = 1
    for field, column in fields.items():
        groups += column.astype(np.int64) * factor
        factor *= sizes[field]
    means, counts = group_means(values, groups, factor)
    found: dict[str, float | int | None] = {f"{name}_avg": accuracy(values)}
    for group, (mean, count) in enumerate(zip(means, counts, strict=True)):
        rest, label = group, list[str]()
        for field, size in sizes.items():
            label.append(f"{field}:{rest % size}")
            rest //= size
        shown = "_".join(reversed(label))
        found[f"{name}_{shown}"] = mean
        found[f"count_{shown}"] = float(count)  # wilds counts in floats
    found[f"{name}_wg"] = min(mean for mean in means if mean is not None)
    return found
