"""The metrics, pure: arrays in, numbers out. They are scikit-learn's and clip_benchmark's own functions; where one of those
cannot serve, ours names it, says why, and a test compares the two.

Predictions may come from strangers, so no function here may need memory that grows with the square of their class numbers.
scikit-learn costs a second of imports once a run, and 0.1 s at the largest task (SUN397); it is imported in the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.integer]
Hits = npt.NDArray[np.bool_]
LIBRARIES = ("scikit-learn", "clip-benchmark")
"""Their versions are part of the key of kept results, with those of a model (`clip_sources.LIBRARIES`)."""


def require_samples(count: int, metric: str) -> None:
    """Raise DataError if there are no samples: each library function would fail in a different way."""
    if not count:
        raise DataError(f"there is no sample, so the {metric} is not defined: evaluate at least one")


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Share of right predictions, both shape (n,): scikit-learn's `accuracy_score`."""
    require_samples(len(labels), "accuracy")
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predicted))


def hit_rate(hits: Hits) -> float:
    """Share of hits, shape (n,): the mean that clip_benchmark's `accuracy` takes for each k. Ours: see `topk_hits`."""
    require_samples(len(hits), "share of hits")
    return float(np.count_nonzero(hits)) / len(hits)


def topk_hits(ranked: Ints, labels: Ints, k: int) -> Hits:
    """Whether the label is among the first k of `ranked` (n, >= k): clip_benchmark's `accuracy`.

    Ours, because that function ends in a TypeError with numpy 2.4 (it converts an array of one number), and needs all logits,
    of which a report keeps the first five classes.
    """
    return (ranked[:, :k] == labels[:, None]).any(axis=1)


def recall_hits(best: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Whether a partner is among the first k candidates of each query, (n,): clip_benchmark's `recall_at_k` is above 0.

    `best` (n, k) are the scores of the candidates that `topk` ranks first, `positive` (n, k) says which are partners. The
    function gets these columns alone: over all candidates its one-hot array (n, k, candidates) takes ten times their ranking.
    """
    require_samples(best.numel(), "recall")
    from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k

    return recall_at_k(best, positive, best.shape[1]) > 0


def mean_per_class_recall(predicted: Ints, labels: Ints) -> float:
    """Mean recall over the classes that occur in `labels`: scikit-learn's `recall_score(average="macro")` over them.

    That is `balanced_accuracy_score`, bit for bit, which is not called: it warns of predicted classes that do not occur, and
    makes a table of all classes against all.
    """
    require_samples(len(labels), "recall")
    from sklearn.metrics import recall_score

    return float(recall_score(labels, predicted, average="macro", labels=np.unique(labels)))


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Mean F1 over the classes that occur in `labels`; others count only as errors: scikit-learn's `f1_score(average="macro")`,
    as wilds' `F1` calls it."""
    require_samples(len(labels), "F1")
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="macro", labels=np.unique(labels)))


def jaccard(chosen: Hits, right: Hits) -> npt.NDArray[np.float64]:
    """Intersection over union of each row's two masks, shapes (n, candidates), 0 where both are empty: float64 (n,).

    scikit-learn's `jaccard_score`, once for all rows, which are its labels: 3,563 single calls would take 5 s.
    """
    require_samples(chosen.size, "Jaccard index")
    from sklearn.metrics import jaccard_score

    if len(chosen) == 1:  # a single label would be read as a binary problem's classes
        return np.array([jaccard_score(right[0], chosen[0], zero_division=0)])  # pyright: ignore[reportArgumentType]
    return np.asarray(jaccard_score(right.T, chosen.T, average=None, zero_division=0), np.float64)  # pyright: ignore


def group_means(values: npt.NDArray[np.bool_], groups: Ints, num_groups: int) -> tuple[list[float | None], list[int]]:
    """Mean and count of each group 0..num_groups-1; None for an empty one. float32 sums, as in the reference's wilds patch."""
    counts = np.bincount(groups, minlength=num_groups)
    sums = np.bincount(groups, weights=values, minlength=num_groups).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts.astype(np.float32)
    return [float(mean) if count else None for mean, count in zip(means, counts, strict=True)], [int(c) for c in counts]


def grouped(name: str, values: npt.NDArray[np.bool_], fields: dict[str, Ints]) -> dict[str, float | int | None]:
    """A mean over all, over each group and over the worst group that has a sample: wilds' `standard_group_eval`.

    `fields` names the metadata that is combined into groups, the first varying fastest. Keys are wilds' own:
    `<name>_avg`, `<name>_<field>:<i>` and `count_<field>:<i>` (fields in reverse order), `<name>_wg`.
    """
    require_samples(len(values), f"mean of {name}")
    sizes = {field: int(column.max()) + 1 for field, column in fields.items()}
    groups = np.zeros(len(values), np.int64)
    factor = 1
    for field, column in fields.items():
        groups += column.astype(np.int64) * factor
        factor *= sizes[field]
    means, counts = group_means(values, groups, factor)
    found: dict[str, float | int | None] = {f"{name}_avg": hit_rate(values)}
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
