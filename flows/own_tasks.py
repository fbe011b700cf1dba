"""Evaluation tasks of one's own in an experiment: their rows and test sets, evaluated beside the suite in a report of their own.

So the suite's report and the entry stay what they are, and tasks may be added to what was trained long ago.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.custom import TaskRow, beside, rows_of
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.evaluation.own_sets import SUITE, OwnSet, OwnSetsSpec, are_of, pinned, root_of


class OwnTasks(Spec):
    """Which tasks, and where their test sets lie."""

    tasks: tuple[TaskRow, ...] = Field(default=(), description="The tasks, a row each.")
    data: str = Field(default="", description="The folder or bucket of their test sets, a folder a set.")
    sets: tuple[OwnSet, ...] = Field(
        default=(), description="Filled in by itself: the test sets with the digits of their content."
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """The place of a file, or the key of a registered task, stands for its rows; the sets are pinned to their content."""
        if not isinstance(given, dict) or not given.get("tasks"):
            return given
        if not given.get("data"):
            raise SpecError("Tasks of your own need the folder of their test sets: `data`, or --task-data.")
        rows = [row for one in given["tasks"] for row in (rows_of(one) if isinstance(one, str) else (_row(one),))]
        root, folders = root_of(str(given["data"])), [row.folder for row in rows]
        before = tuple(OwnSet.model_validate(one) for one in given.get("sets", ()))
        sets = before if are_of(before, root, folders) else pinned(root, folders)
        return {**given, "tasks": rows, "data": root, "sets": sets}

    def require_beside(self, name: str) -> None:
        """SpecError if a key is one of the suite's, or stands twice."""
        beside(suite(name), self.tasks)

    def evalsets(self) -> OwnSetsSpec:
        return OwnSetsSpec(sets=self.sets)

    def evaluation(self) -> EvalSpec:
        return EvalSpec(suite=SUITE, extra_tasks=self.tasks)


def _row(given: Any) -> TaskRow:
    return given if isinstance(given, TaskRow) else TaskRow.model_validate(given)
