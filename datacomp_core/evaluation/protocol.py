"""Defines the protocol of an evaluation task: it receives the encoded batches in order and returns metrics and predictions.

Every protocol has a version, which is written to the report: raise it when the meaning of its numbers changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import TestSet
from datacomp_core.evaluation.encode import Encoded
from datacomp_core.evaluation.zero_shot_model import EvalModel
from datacomp_core.store.folder import Folder

Metrics = dict[str, float | int | None]
Arrays = Mapping[str, npt.NDArray[Any]]
"""The values that a protocol keeps for each sample, by name."""


@dataclass(frozen=True)
class TaskOutcome:
    """Metrics under the reference's names (None where it has NaN), and what later tests need of each sample, compactly.

    `analysis` is further information about the task, in plain JSON; it is not a metric of the reference.
    """

    metrics: Metrics
    predictions: dict[str, npt.NDArray[Any]] = field(default_factory=dict[str, npt.NDArray[Any]])
    analysis: dict[str, Any] = field(default_factory=dict[str, Any])


class EvalProtocol(Protocol):
    """Made once a task, over the set that its `open` gave. Errors are DataError and name the sample.

    `half`: whether the reference encodes its images under autocast. A protocol from outside may state `main_metric`, the
    default for its tasks.
    """

    version: ClassVar[int]
    half: ClassVar[bool]

    @classmethod
    def open(cls, folder: Folder) -> TestSet:
        """The test set in `folder`. DataError says what is wrong with it."""
        ...

    def __init__(self, task: EvalTask, data: Any, model: EvalModel) -> None: ...

    def add(self, samples: Encoded) -> None:
        """The next batch."""
        ...

    def finish(self) -> TaskOutcome: ...

    @classmethod
    def metrics_of(cls, kept: Arrays, main: str = "") -> Metrics:
        """The metrics from what was kept, of which `main` is the task's own. DataError if the arrays do not fit together."""
        ...


def require(kept: Arrays, name: str, kinds: str, dims: int) -> npt.NDArray[Any]:
    """Return a required array; check its kind of numbers (numpy's letters), number of dimensions, and that it is finite."""
    if name not in kept:
        raise DataError(f"the predictions have no {name}")
    found = kept[name]
    if found.dtype.kind not in kinds or found.ndim != dims or (found.dtype.kind == "f" and not np.isfinite(found).all()):
        raise DataError(f"{name} of the predictions are of {found.dtype} with {found.ndim} dimensions, or not finite")
    return found
