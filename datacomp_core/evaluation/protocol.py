"""What a protocol is: it takes a task's batches in order as they are encoded, and ends in metrics and predictions.

Every protocol has a version: raise it when its numbers change their meaning. It stands in the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy.typing as npt

from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import EvalSet, Samples
from datacomp_core.evaluation.model import EvalModel

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Outcome:
    """Metrics under the reference's names (None where it has NaN), and what later tests need of each sample, compactly."""

    metrics: Metrics
    predictions: dict[str, npt.NDArray[Any]] = field(default_factory=dict[str, npt.NDArray[Any]])


class EvalProtocol(Protocol):
    """Made once a task. `members` names what a sample has beside its image. Errors are DataError and name the sample."""

    version: ClassVar[int]
    members: ClassVar[tuple[str, ...]]
    has_classes: ClassVar[bool]

    def __init__(self, task: EvalTask, data: EvalSet, model: EvalModel) -> None: ...

    def add(self, samples: Samples) -> None:
        """The next batch."""
        ...

    def finish(self) -> Outcome: ...
