"""Tasks of a user's own: one row of YAML for a folder in the layout of a known protocol. They are shown beside a suite.

- {key: mine/birds, folder: wds_birds_test}
- {key: mine/maps, folder: maps_test, protocol: retrieval, metric: mean_recall@5, size: 900}
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.documents import read_yaml
from datacomp_core.errors import SpecError, unknown
from datacomp_core.evaluation.catalog import ACC1, EvalTask, Suite
from datacomp_core.evaluation.protocols import PROTOCOLS

MAIN = {
    "retrieval": "mean_recall@1",
    "winogavil": "jaccard_score_10-12",
    "fmow": "acc_worst_region",
    "geode": "acc_wg",
    "dollar_street": "acc_top5_wg",
    "iwildcam": "F1-macro_all",
}


class TaskRow(Spec):
    """One task. It is reported beside the suite and counts in the average of one's own tasks."""

    key: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*$", description="Its key; unique in the report.")
    folder: str = Field(min_length=1, description="Its folder below the data directory.")
    name: str = Field(default="", description="As shown. Empty: the key.")
    protocol: str = Field(default="classification", description="How it is evaluated: a name of evaluation/protocols.py.")
    metric: str = Field(default="", description="Its main metric. Empty: the protocol's.")
    size: int | None = Field(default=None, ge=1, description="Test samples, if they are to be checked.")
    classes: int | None = Field(default=None, ge=1, description="Classes, if they are to be checked.")
    chance: float | None = Field(default=None, ge=0, lt=1, description="Score of guessing.")

    @model_validator(mode="after")
    def _known(self) -> TaskRow:
        if self.protocol not in PROTOCOLS:
            raise unknown("protocol", self.protocol, PROTOCOLS)
        return self

    def task(self) -> EvalTask:
        metric = self.metric or (None if self.protocol == "faces" else MAIN.get(self.protocol, ACC1))
        return EvalTask(
            self.key,
            self.name or self.key,
            self.size,
            self.classes,
            metric,
            protocol=self.protocol,
            chance=self.chance,
            control=True,
            at=self.folder,
        )


def read_rows(path: Path) -> tuple[TaskRow, ...]:
    """The rows of a YAML file. SpecError names the row that is wrong."""
    found = read_yaml(path)
    if not isinstance(found, list) or not found:
        raise SpecError(f"{path} must be a list of tasks, such as `- {{key: mine/birds, folder: wds_birds_test}}`.")
    rows: list[TaskRow] = []
    for number, row in enumerate(found, 1):
        try:
            rows.append(TaskRow.model_validate(row))
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SpecError(f"{path}, task {number}: {where} {first['msg'].removeprefix('Value error, ')}.") from problem
    return tuple(rows)


def beside(suite: Suite, rows: Iterable[TaskRow]) -> list[EvalTask]:
    """The tasks of the rows. SpecError if a key is taken."""
    taken = {task.key for task in suite.tasks}
    found: list[EvalTask] = []
    for row in rows:
        if row.key in taken:
            raise SpecError(f"The task {row.key} is there already: give yours another key.")
        taken.add(row.key)
        found.append(row.task())
    return found
