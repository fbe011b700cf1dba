"""The report of an evaluation: strict JSON that is complete in itself, and the original's `eval_results.jsonl` beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.evaluation import aggregate
from datacomp_core.evaluation.catalog import EvalTask, Suite
from datacomp_core.evaluation.zero_shot_model import EXACT, Exactness
from datacomp_core.store.folder import Folder

REPORT = "report.json"
RESULTS = "eval_results.jsonl"


class TaskResult(BaseModel):
    """The result of one task. `error` says why it has no metrics; `value` is the main metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    name: str
    protocol: str
    protocol_version: int
    main_metric: str | None
    scored: bool = Field(default=True, description="Whether it counts in the suite's average.")
    value: float | None = None
    metrics: dict[str, float | int | None] = Field(default_factory=dict)
    count: int = Field(default=0, description="Number of test samples.")
    seconds: float = 0.0
    analysis: dict[str, Any] = Field(
        default_factory=dict, description="Calibration, worst classes and confusions; probes, if requested."
    )
    data: str = Field(default="", description="sha256 over class names, templates and the bytes of all samples, in order.")
    error: str = ""


class Report(BaseModel):
    """`average` is None unless every scored task of the suite has a value; `own_average` likewise for the user's own tasks.

    `missing` names the tasks of both kinds that have no value; `complete` says that there are none
    and that no task failed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = 2
    suite: str
    suite_version: int
    model: str
    weights: str = Field(description="sha256 of the checkpoint file, or the fingerprint of the artifact.")
    mode: Literal["exact", "fast"] = Field(description="exact: the reference's precision; fast: options that affect the numbers.")
    precision: str = Field(description="`reference`, or the precision of every tower.")
    compiled: bool
    batch_size: int
    device: str
    complete: bool
    missing: list[str]
    average: float | None
    groups: dict[str, float | None]
    clean_average: float | None
    above_chance_average: float | None
    own_average: float | None = Field(default=None, description="Mean of the main metrics of your own tasks.")
    tasks: list[TaskResult]


def make(
    suite: Suite,
    results: Sequence[TaskResult],
    *,
    own: Sequence[EvalTask] = (),
    model: str,
    weights: str,
    exactness: Exactness,
    batch_size: int,
    device: str,
) -> Report:
    """The report over what is there, in the order of the suite, then of `own`, the tasks beside the suite."""
    values = {result.key: result.value for result in results if result.value is not None}
    measured = [task for task in own if task.metric]
    missing = [*aggregate.missing(suite, values), *(task.key for task in measured if task.key not in values)]
    return Report(
        suite=suite.name,
        suite_version=suite.version,
        model=model,
        weights=weights,
        mode="exact" if exactness == EXACT else "fast",
        precision=exactness.precision,
        compiled=exactness.compile == "yes",
        batch_size=batch_size,
        device=device,
        complete=not missing and not any(result.error for result in results),
        missing=missing,
        average=aggregate.average(suite, values),
        groups=aggregate.groups(suite, values),
        clean_average=aggregate.clean(suite, values),
        above_chance_average=aggregate.above_chance(suite, values),
        own_average=aggregate.mean_of(measured, values),
        tasks=list(results),
    )


def write(out: Folder, report: Report) -> None:
    """Both files. The original's has a line for each task that was evaluated; what is NaN there is null here."""
    lines = [json.dumps(original(result), ensure_ascii=False, allow_nan=False) for result in report.tasks if not result.error]
    out.write(RESULTS, "".join(f"{line}\n" for line in lines).encode())
    out.write_json(REPORT, report.model_dump(mode="json"))


def original(result: TaskResult) -> dict[str, Any]:
    """A result as the original's evaluate.py writes it."""
    metrics = {**result.metrics, "main_metric": result.value}
    return {"key": result.key, "dataset": result.name, "metrics": metrics}
