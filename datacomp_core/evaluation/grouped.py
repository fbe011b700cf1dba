"""Classification with groups: WILDS (iWildCam, Camelyon17, FMoW), Dollar Street and GeoDE, as the reference evaluates them.

The groups stand in each sample's npy, in the order of `fields`. The reference's evaluators have no names for the groups, so
FMoW's worst region includes "Other" (four images): that is kept, since all published scores have it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.evaluation import metrics
from datacomp_core.evaluation.classification import TOP, Classification
from datacomp_core.evaluation.protocol import Metrics


class Grouped(Classification):
    """Classification that also reads the metadata of each sample."""

    members: ClassVar[tuple[str, ...]] = ("cls", "npy")
    fields: ClassVar[tuple[str, ...]] = ()

    def extra(self, kept: dict[str, npt.NDArray[Any]]) -> Metrics:
        return self.grouped(kept, {name: column(kept["metadata"], self.fields, name) for name in self.fields})

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        """The metrics of the task."""
        raise NotImplementedError


def column(metadata: npt.NDArray[Any], fields: tuple[str, ...], name: str) -> metrics.Ints:
    """One field of the samples' npy, shape (n,), as non-negative integers. DataError if it cannot be."""
    if metadata.ndim != 2 or metadata.shape[1] < len(fields):
        raise DataError(f"the npy of its samples has shape {metadata.shape[1:]}; {len(fields)} numbers are wanted: {fields}")
    found = metadata[:, fields.index(name)].astype(np.int64)
    if found.min() < 0:
        raise DataError(f"the field {name} of sample {int(found.argmin())} is negative; groups are numbered from 0")
    return found


def _hits(kept: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    return kept["predicted"] == kept["labels"]


class IWildCam(Grouped):
    """Macro F1 and recall over the classes that occur."""

    fields: ClassVar[tuple[str, ...]] = ("location", "sequence", "year", "month", "day", "hour", "minute", "second", "y")

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        return {
            "acc_avg": metrics.accuracy(_hits(kept)),
            "recall-macro_all": metrics.mean_per_class_recall(kept["predicted"], kept["labels"]),
            "F1-macro_all": metrics.macro_f1(kept["predicted"], kept["labels"]),
        }


class Camelyon17(Grouped):
    """By slide; the main metric is the plain accuracy."""

    fields: ClassVar[tuple[str, ...]] = ("hospital", "slide", "y")

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        return metrics.grouped("acc", _hits(kept), {"slide": fields["slide"]})


class FMoW(Grouped):
    """By year, and the worst region."""

    fields: ClassVar[tuple[str, ...]] = ("region", "year", "y")

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        years = metrics.grouped("acc", _hits(kept), {"year": fields["year"]})
        years["acc_worst_year"] = years.pop("acc_wg")
        regions = metrics.grouped("acc", _hits(kept), {"region": fields["region"]})
        worst = regions.pop("acc_wg")
        return {**years, **regions, "acc_worst_region": worst}


class DollarStreet(Grouped):
    """Accuracy@5 of the worst income group."""

    fields: ClassVar[tuple[str, ...]] = ("income_ds", "income_meta", "region")

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        hits = metrics.topk_hits(kept["ranked"], kept["labels"], TOP)
        return metrics.grouped("acc_top5", hits, {"income_ds": fields["income_ds"]})


class GeoDE(Grouped):
    """Accuracy@1 of the worst region."""

    fields: ClassVar[tuple[str, ...]] = ("region", "country")

    def grouped(self, kept: dict[str, npt.NDArray[Any]], fields: dict[str, metrics.Ints]) -> Metrics:
        return metrics.grouped("acc", _hits(kept), {"region": fields["region"]})
