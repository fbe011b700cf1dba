"""Stores what every test image added to a task's main metric, in the few bytes that a paired test over images needs.

Read from the predictions that the evaluation keeps, and stored beside the entry, so that a board reads one file for each entry. A
task whose values do not reproduce its score (macro F1 is not a mean over images) is left out and reported.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.store import Folder

HITS = "hits.npz"
PREDICTIONS = "predictions"
RECALLS = (1, 5, 10)
TOLERANCE = 1e-5
TOP_FIVE = ("acc5", "acc_top5_wg")
WORST_GROUP = ("acc_worst_region", "acc_wg", "acc_top5_wg")
FEWEST_CANDIDATES = 10  # WinoGAViL's main metric is over instances with 10 to 12 of them

Combine = Literal["mean", "least"]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PerImageScores:
    """`values[i]` is what image i scored, `strata[i]` its class or group; the metric combines the means of the strata."""

    values: npt.NDArray[np.float64]
    strata: npt.NDArray[np.int64]
    combine: Combine = "mean"

    def score(self) -> float:
        """The task's main metric from the values."""
        means = np.array([self.values[self.strata == s].mean() for s in np.unique(self.strata)])
        return float(means.min() if self.combine == "least" else means.mean())

    def pairs_with(self, other: PerImageScores) -> bool:
        """Whether both are of the same images in the same order."""
        return self.combine == other.combine and np.array_equal(self.strata, other.strata)


def of_predictions(metric: str, kept: Arrays) -> PerImageScores | None:
    """The values behind a main metric, by its name; None if it is not a combination of means over images."""
    if metric.startswith("mean_recall@") and "text_found" in kept:
        return _recall(RECALLS.index(int(metric.partition("@")[2])), kept)
    if metric.startswith("jaccard_score") and "jaccard" in kept:
        chosen = kept["candidates"] >= FEWEST_CANDIDATES
        return _plain(kept["jaccard"][chosen])
    return _classified(metric, kept) if "labels" in kept else None


def _classified(metric: str, kept: Arrays) -> PerImageScores | None:
    hits = _among(kept) if metric in TOP_FIVE else kept["predicted"] == kept["labels"]
    if metric in ("acc1", "acc5"):
        return _plain(hits)
    if metric == "mean_per_class_recall":
        return PerImageScores(hits.astype(np.float64), kept["labels"].astype(np.int64))
    if metric in WORST_GROUP and "metadata" in kept:
        return PerImageScores(
            hits.astype(np.float64), kept["metadata"][:, 0].astype(np.int64), "least"
        )  # the group is the first field
    return None


def _plain(values: npt.NDArray[Any]) -> PerImageScores:
    return PerImageScores(values.astype(np.float64), np.zeros(len(values), np.int64))


def _among(kept: Arrays) -> npt.NDArray[np.bool_]:
    return (kept["ranked"][:, :5] == kept["labels"][:, None]).any(axis=1)


def _recall(place: int, kept: Arrays) -> PerImageScores:
    """An image with its captions is one draw: half its own hit, half its captions' hits in proportion to their number."""
    by_image, by_text, image_of = kept["text_found"][:, place], kept["image_found"][:, place], kept["image_of_text"]
    captions = np.bincount(image_of, weights=by_text.astype(np.float64), minlength=len(by_image))
    return _plain(0.5 * by_image + 0.5 * captions * len(by_image) / max(len(by_text), 1))


def prediction_file(key: str) -> str:
    """Where a report keeps what was predicted for a task."""
    return f"{PREDICTIONS}/{key.replace('/', '-')}.npz"


def gather(report: Folder, tasks: Mapping[str, tuple[str, float]]) -> dict[str, PerImageScores]:
    """Hits of every task (key to main metric and score) whose predictions are kept and give its score back."""
    there, found = report.files(".npz"), dict[str, PerImageScores]()
    for key, (metric, score) in tasks.items():
        name = prediction_file(key)
        if name not in there:
            continue
        with np.load(io.BytesIO(report.read(name)), allow_pickle=False) as kept:
            hits = of_predictions(metric, {field: kept[field] for field in kept.files})
        if hits is not None and len(hits.values) and abs(hits.score() - score) < TOLERANCE:
            found[key] = hits
    return found


def write(out: Folder, found: Mapping[str, PerImageScores]) -> None:
    """Put `hits.npz` into a folder: for each task its values (a byte an image where they are hits) and strata, if any."""
    arrays: dict[str, Any] = {}
    for key, hits in found.items():
        whole = hits.values.astype(np.uint8)
        arrays[f"{key}|values"] = whole if np.array_equal(whole, hits.values) else hits.values.astype(np.float32)
        if hits.strata.any():
            arrays[f"{key}|{hits.combine}"] = hits.strata.astype(np.int32)
    with out.writing(HITS) as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read(folder: Folder) -> dict[str, PerImageScores]:
    """The hits beside an entry, by task; none if it has no such file. DataError if it is damaged."""
    if not folder.exists(HITS):
        return {}
    try:
        with np.load(io.BytesIO(folder.read(HITS)), allow_pickle=False) as kept:
            return of_arrays({name: kept[name] for name in kept.files})
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
        raise DataError(f"{folder.at(HITS)} is damaged ({problem}): enter the report again.") from problem


def of_arrays(kept: Arrays) -> dict[str, PerImageScores]:
    """The hits by task from the arrays of `hits.npz`."""
    return {name.rpartition("|")[0]: _read(kept, name) for name in kept if name.endswith("|values")}


def _read(kept: Arrays, name: str) -> PerImageScores:
    values, task = kept[name].astype(np.float64), name.rpartition("|")[0]
    combine: Combine = "least" if f"{task}|least" in kept else "mean"
    strata = f"{task}|{combine}"
    return PerImageScores(values, kept[strata].astype(np.int64) if strata in kept else np.zeros(len(values), np.int64), combine)
