"""Tasks of a user's own, shown beside a suite: rows of YAML, a Python file, or an installed package (`datacomp.tasks`).

- {key: mine/birds, folder: wds_birds_test}
- {key: mine/maps, folder: maps_test, protocol: retrieval, metric: mean_recall@5, size: 900}

In Python, `@register` stands before a function that returns a `TaskRow`; the task is known by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError, unknown
from datacomp_core.evaluation.catalog import ACC1, EvalTask, Suite
from datacomp_core.evaluation.protocols import PROTOCOLS, code_of_protocol, protocol_of
from datacomp_core.external_code import code_of, load_file
from datacomp_core.registry import TASKS
from datacomp_core.untrusted_documents import read_yaml

B = TypeVar("B", bound=Callable[[], Any])
MAIN = {
    "retrieval": "mean_recall@1",
    "winogavil": "jaccard_score_10-12",
    "fmow": "acc_worst_region",
    "geode": "acc_wg",
    "dollar_street": "acc_top5_wg",
    "iwildcam": "F1-macro_all",
}


class TaskRow(Spec):
    """One task. It is reported beside the suite and counts in the average of the user's own tasks."""

    key: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*$", description="Its key; unique in the report.")
    folder: str = Field(min_length=1, description="Its folder in the data directory.")
    name: str = Field(default="", description="Name to show; empty: the key.")
    protocol: str = Field(default="classification", description="The way to evaluate it: a name of evaluation/protocols.py.")
    metric: str = Field(default="", description="Its main metric; empty: the metric of the protocol.")
    size: int | None = Field(default=None, ge=1, description="Number of test samples, to check it.")
    classes: int | None = Field(default=None, ge=1, description="Number of classes, to check it.")
    chance: float | None = Field(default=None, ge=0, lt=1, description="Score of random guessing.")

    code: str = Field(default="", description="The code of its protocol, if external; filled in automatically.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """A protocol from outside is known by its code, so that other code is another task."""
        if not isinstance(given, dict):
            return given
        name = str(given.get("protocol", "classification"))
        if given.get("code"):
            protocol_of(name, str(given["code"]))
            return given
        if name not in PROTOCOLS:
            raise unknown("protocol", name, PROTOCOLS)
        return {**given, "code": code_of_protocol(name)}

    def task(self) -> EvalTask:
        of_protocol = getattr(protocol_of(self.protocol, self.code), "main_metric", MAIN.get(self.protocol, ACC1))
        metric = self.metric or (None if self.protocol == "faces" else of_protocol)
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
            code=self.code,
        )


def register(build: B) -> B:
    """The decorator of a function without parameters that returns a task. SpecError if it returns something else."""
    row = build()
    if not isinstance(row, TaskRow):
        raise SpecError(f"{build.__name__} registers an evaluation task but returns {type(row).__name__}: return a TaskRow.")
    TASKS.add(row.key, row, build.__module__)
    return build


def rows_of(given: str) -> tuple[TaskRow, ...]:
    """The tasks of a YAML file or a Python file, or the registered one of that key. SpecError says what is wrong."""
    if not given.endswith(".py") and (given.endswith((".yaml", ".yml", ".json")) or Path(given).is_file()):
        return read_rows(Path(given))
    if not given.endswith(".py"):
        if given not in TASKS and not list(TASKS):
            raise SpecError(f"{given} is neither an existing YAML or Python file nor the key of a registered evaluation task.")
        return (TASKS.find(given),)
    module = load_file(given).__name__
    rows: dict[str, TaskRow] = TASKS.added_by(module)
    if not rows and not PROTOCOLS.added_by(module):
        raise SpecError(f"{given} does not register an evaluation task: put @register before a function that returns a TaskRow.")
    return tuple(rows.values())


def origin_of(row: TaskRow) -> str:
    """Where a registered task comes from."""
    return code_of(TASKS.module_of(row.key)) or "this package"


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
            raise _told(problem, f"{path}, task {number}") from problem
    return tuple(rows)


def _told(problem: ValidationError, row: str) -> SpecError:
    """The first thing that is wrong with a row, as one sentence; a field that does not exist before those that are missing."""
    first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(f"field in {row}:", field, [name for name in TaskRow.model_fields if name != "code"])
    if first["type"] == "missing":
        return SpecError(f"{row} has no {field}.")
    if first["type"] == "string_pattern_mismatch":
        return SpecError(f"{row}: the {field} {first['input']!r} may contain only letters, digits and _ . -, as in mine/birds.")
    if first["type"] in ("model_type", "model_attributes_type"):
        return SpecError(f"{row} is {first['input']!r}: write `{{key: mine/birds, folder: wds_birds_test}}`.")
    if isinstance(cause := first.get("ctx", {}).get("error"), SpecError):
        return SpecError(f"{row}: {cause}")
    return SpecError(f"{row}: {f'{field}: ' if field else ''}{first['msg']} (given: {first['input']!r}).")


def tasks_of_rows(suite: Suite, rows: Iterable[TaskRow]) -> list[EvalTask]:
    """The tasks of the rows. SpecError if a key is taken."""
    taken = {task.key for task in suite.tasks}
    found: list[EvalTask] = []
    for row in rows:
        if row.key in taken:
            raise SpecError(f"The task {row.key} already exists: give yours another key.")
        taken.add(row.key)
        found.append(row.task())
    return found
