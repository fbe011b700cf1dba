"""Adds the user's own evaluation tasks to an experiment. They are evaluated after the suite and have a separate report.

So the suite's report and the entry do not change, and tasks can be added to old trainings.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from datacomp_core.artifacts import OWN_SUITE, Spec
from datacomp_core.errors import SpecError
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.custom import TaskRow, rows_of, tasks_of_rows
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.evaluation.own_sets import OwnSet, OwnSetsSpec, are_sets_in, pin_sets, root_of


class OwnTasks(Spec):
    """The tasks, and the folder of their test sets."""

    tasks: tuple[TaskRow, ...] = Field(default=(), description="The tasks, one row per task.")
    data: str = Field(default="", description="The folder or bucket of their test sets, one folder per set.")
    sets: tuple[OwnSet, ...] = Field(
        default=(), description="Filled in automatically: the test sets with the digits of their content."
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Replace a file's path or a registered task's key by its rows, and pin the sets to their content."""
        if not isinstance(given, dict) or not given.get("tasks"):
            return given
        if not given.get("data"):
            raise SpecError("Your own tasks need the folder of their test sets: `data`, or --task-data.")
        rows = [row for one in given["tasks"] for row in (rows_of(one) if isinstance(one, str) else (_row(one),))]
        root, protocols = root_of(str(given["data"])), {row.folder: row.protocol for row in rows}
        before = tuple(OwnSet.model_validate(one) for one in given.get("sets", ()))
        sets = before if are_sets_in(before, root, protocols) else pin_sets(root, protocols)
        return {**given, "tasks": rows, "data": root, "sets": sets}

    def require_beside(self, name: str) -> None:
        """Raise SpecError if a key is one of the suite's, or occurs twice."""
        tasks_of_rows(suite(name), self.tasks)

    def evalsets(self) -> OwnSetsSpec:
        return OwnSetsSpec(sets=self.sets)

    def evaluation(self) -> EvalSpec:
        return EvalSpec(suite=OWN_SUITE, extra_tasks=self.tasks)


def _row(given: Any) -> TaskRow:
    return given if isinstance(given, TaskRow) else TaskRow.model_validate(given)
