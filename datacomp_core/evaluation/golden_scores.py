"""Released checkpoints whose scores others published, task by task: evaluate one, and see whether this code gives its numbers.

The table is open_clip's (`golden/`, four decimals); your own checkpoint can be given as a YAML file with `model` (as
`clip_sources.source` takes it) and `scores` by task. Published scores were made on GPUs with fp16 texts: single predictions
may flip, so that each task has the tolerance that a few flips can move.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError

from datacomp_core.artifacts import Spec
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.evaluation.catalog import EvalTask, Suite, suite
from datacomp_core.evaluation.report import Report, TaskResult
from datacomp_core.untrusted_documents import read_yaml

TABLE = Path(__file__).with_name("golden") / "openclip_datacomp_rows.csv"
AVERAGE = "Average perf. on 38 datasets"
DOUBTFUL = {"commonpool_s_image_s13m_b4k": "its row is a copy of datacomp_s_s13m_b4k's"}
FLIPS = 2  # samples of a task that may fall otherwise
ROUNDING = 5e-5
LEAST, PER_CLASS, MACRO, JACCARD = 5e-4, 2e-3, 5e-3, 1e-3


class Golden(Spec):
    """A checkpoint and its published scores, by task key or name."""

    model: str = Field(description="The value of `datacomp evaluate --model`: NAME/TAG, hf-hub:owner/name or a folder.")
    scores: dict[str, float] = Field(description="Main metric by task key or display name, between 0 and 1.")
    suite: str = Field(default="datacomp", description="The suite of the scores.")


@dataclass(frozen=True)
class TaskComparison:
    """One task. `ours` is None if it was not evaluated."""

    task: EvalTask
    published: float
    ours: float | None
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.ours is not None and abs(self.ours - self.published) <= self.tolerance


def golden(name: str) -> Golden:
    """A row of the table by `NAME/TAG` or by its tag alone, or a YAML file. SpecError names the nearest."""
    if name.endswith((".yaml", ".yml")):
        return _from_file(Path(name))
    table = _table()
    found = [row for row in table if name in (row, row.partition("/")[2])]
    if len(found) != 1:
        raise unknown("golden checkpoint", name, table)
    tag = found[0].partition("/")[2]
    if tag in DOUBTFUL:
        raise SpecError(f"The published scores of {found[0]} are not reliable: {DOUBTFUL[tag]}.")
    return table[found[0]]


def compare(expected: Golden, report: Report) -> list[TaskComparison]:
    """Every published score beside ours, in the suite's order; tasks that were not asked for are left out."""
    chosen = suite(expected.suite)
    scores = {chosen.task(key).key: value for key, value in expected.scores.items()}
    return [
        TaskComparison(chosen.task(result.key), scores[result.key], result.value, tolerance(chosen, result))
        for result in report.tasks
        if result.key in scores
    ]


def tolerance(chosen: Suite, result: TaskResult) -> float:
    """Return by how much FLIPS changed predictions can move a task's main metric, at least 5e-4."""
    metric = chosen.task(result.key).metric or ""
    if metric.startswith(("acc_w", "acc_top5_w")):  # the smallest group decides: FMoW's "Other" has four images
        counts = [float(value) for name, value in result.metrics.items() if name.startswith("count_") and value]
        return (1.0 if not counts else max(1.0 / min(counts), LEAST)) + ROUNDING
    fixed = {"mean_per_class_recall": PER_CLASS, "F1-macro_all": MACRO, "jaccard_score_10-12": JACCARD}
    return max(FLIPS / max(result.count, 1), fixed.get(metric, LEAST)) + ROUNDING


@cache
def _table() -> dict[str, Golden]:
    names = {task.name for task in suite("datacomp").scored}  # tasks added later have no published score
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {
            f"{row['name']}/{row['pretrained']}": Golden(
                model=f"{row['name']}/{row['pretrained']}", scores={name: float(row[name]) for name in names if row.get(name)}
            )
            for row in csv.DictReader(file)
        }


def _from_file(path: Path) -> Golden:
    try:
        return Golden.model_validate(read_yaml(path))
    except (DataError, ValidationError) as problem:
        raise SpecError(f"{path} is not a golden row (model, scores): {problem}") from problem
