"""Classification with groups: WILDS (iWildCam, Camelyon17, FMoW), Dollar Street and GeoDE, as the reference evaluates them.

Each sample's npy contains the groups, in the order of `fields`. The reference's evaluators have no names for the groups, so
FMoW's worst region includes "Other" (four images): that is kept, since all published scores have it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.evaluation import metrics
from datacomp_core.evaluation.classification import TOP, Classification
from datacomp_core.evaluation.encode import Encoded
from datacomp_core.evaluation.protocol import Arrays, Metrics, require

MAX_FIELD = 100_000  # groups are counted in an array


class Grouped(Classification):
    """Classification that also reads the metadata of each sample."""

    members: ClassVar[tuple[str, ...]] = ("cls", "npy")
    fields: ClassVar[tuple[str, ...]] = ()

    def add(self, samples: Encoded) -> None:
        check_metadata(samples, self.fields, self.metadata[0].size if self.metadata else None)
        super().add(samples)

    @classmethod
    def extra(cls, kept: Arrays) -> Metrics:
        metadata = require(kept, "metadata", "iuf", 2)
        check_rows(metadata, cls.fields, len(kept["labels"]))
        return cls.grouped(kept, {name: column(metadata, cls.fields, name) for name in cls.fields})

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        """The metrics of the task."""
        raise NotImplementedError


def check_metadata(samples: Encoded, fields: tuple[str, ...], size: int | None = None) -> None:
    """Each sample's npy must hold a small non-negative whole number for each field, and `size` in all (None: as many as the
    first one). DataError names the sample that does not.
    """
    size = size or samples.members["npy"][0].size
    for key, row in zip(samples.keys, samples.members["npy"], strict=True):
        if row.ndim != 1 or row.size < len(fields) or row.dtype.kind not in "iuf":
            wanted = f"{len(fields)} numbers are needed: {', '.join(fields)}"
            raise DataError(f"sample {key}: its npy has shape {row.shape} of {row.dtype}; {wanted}")
        if row.size != size:
            raise DataError(f"sample {key}: its npy has {row.size} numbers, others have {size}")
        for name, value in zip(fields, row, strict=False):
            if not (0 <= value < MAX_FIELD and value == int(value)):
                raise DataError(f"sample {key}: the field {name} of its npy is {value}; fields are numbered from 0")


def column(metadata: npt.NDArray[Any], fields: tuple[str, ...], name: str) -> metrics.Ints:
    """One field of the samples' checked npy, shape (n,)."""
    return metadata[:, fields.index(name)].astype(np.int64)


def check_rows(metadata: npt.NDArray[Any], fields: tuple[str, ...], num_samples: int) -> None:
    """As `check_metadata`, of rows (n, numbers) that were kept. DataError says what is wrong."""
    if len(metadata) != num_samples or metadata.shape[1] < len(fields):
        raise DataError(f"metadata of shape {metadata.shape} do not fit {num_samples} samples with {len(fields)} fields")
    used = metadata[:, : len(fields)]
    if not ((used >= 0) & (used < MAX_FIELD) & (used == np.floor(used))).all():
        raise DataError("a field of the metadata is not a whole number from 0")


def _hits(kept: Arrays) -> npt.NDArray[np.bool_]:
    return kept["predicted"] == kept["labels"]


class IWildCam(Grouped):
    """Macro F1 and recall over the classes that occur: scikit-learn's `f1_score` and `recall_score`, as wilds calls them."""

    fields: ClassVar[tuple[str, ...]] = ("location", "sequence", "year", "month", "day", "hour", "minute", "second", "y")

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        return {
            "acc_avg": metrics.accuracy(kept["predicted"], kept["labels"]),
            "recall-macro_all": metrics.mean_per_class_recall(kept["predicted"], kept["labels"]),
            "F1-macro_all": metrics.macro_f1(kept["predicted"], kept["labels"]),
        }


class Camelyon17(Grouped):
    """By slide; the main metric is the plain accuracy (scikit-learn's `accuracy_score`). Means of groups: `metrics.grouped`."""

    fields: ClassVar[tuple[str, ...]] = ("hospital", "slide", "y")

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        return metrics.grouped("acc", _hits(kept), {"slide": fields["slide"]})


class FMoW(Grouped):
    """By year, and the worst region: `metrics.grouped`, equal to wilds' `standard_group_eval`."""

    fields: ClassVar[tuple[str, ...]] = ("region", "year", "y")

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        years = metrics.grouped("acc", _hits(kept), {"year": fields["year"]})
        years["acc_worst_year"] = years.pop("acc_wg")
        regions = metrics.grouped("acc", _hits(kept), {"region": fields["region"]})
        worst = regions.pop("acc_wg")
        return {**years, **regions, "acc_worst_region": worst}


class DollarStreet(Grouped):
    """Accuracy@5 (`metrics.topk_hits`) of the worst income group: `metrics.grouped`, equal to wilds' `standard_group_eval`."""

    fields: ClassVar[tuple[str, ...]] = ("income_ds", "income_meta", "region")

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        hits = metrics.topk_hits(kept["ranked"], kept["labels"], TOP)
        return metrics.grouped("acc_top5", hits, {"income_ds": fields["income_ds"]})


class GeoDE(Grouped):
    """Accuracy@1 of the worst region: `metrics.grouped`, equal to wilds' `standard_group_eval`."""

    fields: ClassVar[tuple[str, ...]] = ("region", "country")

    @classmethod
    def grouped(cls, kept: Arrays, fields: dict[str, metrics.Ints]) -> Metrics:
        return metrics.grouped("acc", _hits(kept), {"region": fields["region"]})
