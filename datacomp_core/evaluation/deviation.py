"""Measures how much two evaluations of one model differ: a fast mode against the exact one, sample by sample.

Both must have seen the same data. A flip is a sample whose prediction is another one (retrieval: a query that is found in
one and not in the other; WinoGAViL: an instance with another score).
"""

from __future__ import annotations

import io

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import DataError
from datacomp_core.evaluation.report import REPORT, Report
from datacomp_core.evaluation.run import PREDICTIONS
from datacomp_core.store.folder import Folder

FILE = "deviation.json"
COMPARED = ("predicted", "image_found", "text_found", "jaccard", "race", "gender", "age", "toxic")


class TaskDeviation(BaseModel):
    """One task: main metric exactly and in the fast mode, and of how many samples the outcome changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    name: str
    exact: float | None
    fast: float | None
    flips: int
    outcomes: int = Field(description="Number of predictions that could differ.")

    @property
    def difference(self) -> float | None:
        return None if self.exact is None or self.fast is None else self.fast - self.exact


class Deviation(BaseModel):
    """All tasks that both have, and the largest difference of a main metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    exact: str
    fast: str
    largest: float
    average: float | None = Field(description="Fast minus exact; null if an average is missing.")
    tasks: list[TaskDeviation]


def measure(exact: Folder, fast: Folder) -> Deviation:
    """Compare two outputs of `evaluate` and write `deviation.json` into `fast`. DataError if they are not comparable."""
    old, new = (Report.model_validate_json(folder.read(REPORT)) for folder in (exact, fast))
    if old.weights != new.weights:
        raise DataError(f"{exact} and {fast} have different weights: evaluate one checkpoint in both modes.")
    theirs = {task.key: task for task in old.tasks if not task.error}
    found: list[TaskDeviation] = []
    for task in new.tasks:
        if task.error or task.key not in theirs:
            continue
        if task.data != theirs[task.key].data:
            raise DataError(f"{task.key} used different data in {exact} and in {fast}.")
        flips, outcomes = _flips(exact, fast, task.key.replace("/", "-"))
        found.append(
            TaskDeviation(
                key=task.key, name=task.name, exact=theirs[task.key].value, fast=task.value, flips=flips, outcomes=outcomes
            )
        )
    average = None if old.average is None or new.average is None else new.average - old.average
    largest = max((abs(task.difference or 0.0) for task in found), default=0.0)
    made = Deviation(exact=_mode(old), fast=_mode(new), largest=largest, average=average, tasks=found)
    fast.write_json(FILE, made.model_dump(mode="json"))
    return made


def _mode(report: Report) -> str:
    return f"{report.precision}{', compiled' if report.compiled else ''}, batches of {report.batch_size}, {report.device}"


def _flips(exact: Folder, fast: Folder, slug: str) -> tuple[int, int]:
    flips = outcomes = 0
    both = [np.load(io.BytesIO(folder.read(f"{PREDICTIONS}/{slug}.npz")), allow_pickle=False) for folder in (exact, fast)]
    for name in COMPARED:
        if name in both[0].files and name in both[1].files:
            flips += int(np.count_nonzero(both[0][name] != both[1][name]))
            outcomes += both[0][name].size
    return flips, outcomes
