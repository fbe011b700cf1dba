"""A report computed again from its predictions: what it says beside them must be equal.

Task list, names, main metrics, what counts, sizes and groups are the suite's of this code; every metric is computed by the
protocol that made it, from the arrays that the protocol kept. Tasks of a user's own are in no suite and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import ValidationError

from datacomp_core.errors import DataError
from datacomp_core.evaluation import aggregate
from datacomp_core.evaluation.catalog import SUITES, EvalTask, Suite
from datacomp_core.evaluation.protocol import Arrays, Metrics
from datacomp_core.evaluation.protocols import PROTOCOLS
from datacomp_core.evaluation.report import Report, TaskResult
from datacomp_core.recomputed_scores import Predictions, RecomputedScores, TaskScore, register

TOLERANCE = 1e-6
"""Predictions keep some values in 32 bits."""


@register
def rescore(report: bytes, predictions: Predictions) -> RecomputedScores:
    """See the module. DataError if it is not a report, or has a suite or version that this code does not know."""
    said = _read(report)
    suite = SUITES.get(said.suite)
    if suite is None:
        raise DataError(f"report.json is of the suite {said.suite!r}, which is unknown here.")
    if said.suite_version != suite.version:
        raise DataError(
            f"report.json is of suite {suite.name} version {said.suite_version}; here it is at version {suite.version}."
        )
    results, wrong = _by_key(said.tasks), list[str]()
    scores = [_task(task, results.get(task.key), predictions, wrong) for task in suite.tasks]
    values = {score.key: score.value for score in scores if score.value is not None}
    groups = aggregate.groups(suite, values)
    wrong += _aggregates(said, suite, values)
    outside = {key: one.value for key, one in results.items() if key not in {task.key for task in suite.tasks}}
    return RecomputedScores(
        suite.name, suite.version, tuple(scores), aggregate.average(suite, values), groups, tuple(wrong), outside
    )


def _read(report: bytes) -> Report:
    try:
        return Report.model_validate_json(report)
    except ValidationError as problem:
        fault = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"report.json is not a report of this code, at {where!r}: {fault['msg']}.") from problem


def _by_key(results: list[TaskResult]) -> dict[str, TaskResult]:
    found: dict[str, TaskResult] = {}
    for result in results:
        if found.setdefault(result.key, result) is not result:
            raise DataError(f"report.json has the task {result.key[:80]} twice.")
    return found


def _task(task: EvalTask, said: TaskResult | None, predictions: Predictions, wrong: list[str]) -> TaskScore:
    """The task's score from its predictions; what the report says of it is compared."""
    found: Metrics = {}
    kept = None if said is None or said.error else predictions(task.key)
    if kept is not None:
        try:
            found = PROTOCOLS[task.protocol].metrics_of(kept, task.metric or "")
            _check_size(task, kept)
        except DataError as problem:
            raise DataError(f"The predictions of {task.name} are wrong: {problem}.") from problem
    elif said is not None and not said.error:
        raise DataError(f"The predictions of {task.name} are not in the bundle, so its score is not verifiable.")
    value = found.get(task.metric) if task.metric else None
    if said is not None:
        wrong += _differences(task, said, found, None if value is None else float(value))
    score = None if value is None else float(value)
    return TaskScore(task.key, task.name, task.metric or "", task.is_scored, score, said is not None)


def _check_size(task: EvalTask, arrays: Arrays) -> None:
    sized = next((len(arrays[name]) for name in ("labels", "text_found", "jaccard", "race") if name in arrays), 0)
    if task.size is not None and sized != task.size:
        raise DataError(f"they are of {sized} samples, and the task has {task.size}")
    if task.classes is not None and "labels" in arrays:
        most = max(int(arrays[name].max()) for name in ("labels", "predicted", "ranked"))
        if most >= task.classes:
            raise DataError(f"they name the class {most}, and the task has {task.classes}")


def _differences(task: EvalTask, said: TaskResult, found: Metrics, value: float | None) -> Iterator[str]:
    protocol = PROTOCOLS[task.protocol]
    for name, claimed, known in (
        ("name", said.name, task.name),
        ("protocol", said.protocol, task.protocol),
        ("protocol version", said.protocol_version, protocol.version),
        ("main metric", said.main_metric, task.metric),
        ("scored", said.scored, task.is_scored),
    ):
        if claimed != known:
            yield f"{task.key} has the {name} {str(claimed)[:60]!r} instead of {known!r}"
    if said.error:
        if said.value is not None:
            yield f"{task.key} failed but has a score"
        return
    if not close(said.value, value):
        yield f"{task.key} has the score {said.value}, and its predictions give {value}"
    differing = [name for name in said.metrics.keys() | found.keys() if not close(said.metrics.get(name), found.get(name))]
    if differing:
        yield f"{task.key} has another {sorted(differing)[0][:60]} than its predictions"


def _aggregates(said: Report, suite: Suite, values: dict[str, float]) -> Iterator[str]:
    missing = aggregate.missing(suite, values)
    for name, claimed, known in (
        ("average", said.average, aggregate.average(suite, values)),
        ("clean average", said.clean_average, aggregate.clean(suite, values)),
        ("average above chance", said.above_chance_average, aggregate.above_chance(suite, values)),
    ):
        if not close(claimed, known):
            yield f"the {name} is {claimed} in the report, and {known} from the predictions"
    groups = aggregate.groups(suite, values)
    if said.groups.keys() != groups.keys() or any(not close(said.groups[name], groups[name]) for name in groups):
        yield "the averages of the groups differ from what the predictions give"
    of_suite = {task.key for task in suite.tasks}
    own = [key for key in said.missing if key not in of_suite]
    complete = not missing and not own and not any(task.error for task in said.tasks)
    if (said.complete, said.missing) != (complete, [*missing, *own]):
        yield "the list of missing tasks differs from what the predictions give"


def close(one: float | None, other: float | None) -> bool:
    """Equal up to `TOLERANCE`, or both None."""
    if one is None or other is None:
        return one is None and other is None
    return math.isfinite(one) and abs(one - other) <= TOLERANCE * max(1.0, abs(other))
