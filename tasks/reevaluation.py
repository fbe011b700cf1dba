"""Scores checkpoints again, and raises an alarm when a score has changed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from datacomp_core.artifacts import Checkpoint, EvalReport, EvalSets
from datacomp_core.errors import DataError
from datacomp_core.evaluation import evaluate as evaluation
from datacomp_core.evaluation.report import REPORT
from datacomp_core.leaderboard.board.findings import percent, points
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from datacomp_core.store.record import Record
from tasks import evaluate as evaluating
from tasks import policies
from tasks.concurrency import slot
from tasks.reporting import artifact_key, in_run
from tasks.running import store, stored

log = logging.getLogger(__name__)

DRIFTED = "datacomp.evaluation.drifted"
EXACT = 4
"""Digits of a percentage in the alarm's table."""
MEASURED_BY = ("device", "precision", "compiled")
"""Fields of a report: if one of them differs between two reports, the last digits of every score may differ."""


@dataclass(frozen=True)
class ScoreChange:
    """One task whose score has changed."""

    checkpoint: str
    task: str
    before: float
    now: float


def waiting(scale: str, spec: evaluation.EvalSpec, evalsets: EvalSets, named: tuple[str, ...] = ()) -> list[Checkpoint]:
    """Return the checkpoints to score: the named ones, else all of a scale's recipe without a report of the current suite."""
    if named:
        return [stored(Checkpoint, address) for address in named]
    own = (record for record in store().records(Checkpoint.kind) if record.spec["spec"]["recipe"]["name"] == scale)
    found = [store().artifact(Checkpoint, record) for record in own]
    return [one for one in found if not evaluation.evaluate.plan(spec, one, evalsets, store=store()).is_built]


def tell_waiting(scale: str, checkpoints: list[Checkpoint], *, named: bool) -> str:
    """Say in an artifact how many checkpoints are evaluated, and why no others are. Returns the sentence, for the run's state."""
    why = "named in the request" if named else f"of scale {scale}, without a report of the current suite"
    text = f"{len(checkpoints)} to evaluate: checkpoints {why}."
    log.info("%s", text)
    if in_run():
        rows = "".join(f"\n- `{checkpoint.address}`" for checkpoint in checkpoints)
        create_markdown_artifact(text + rows, key=artifact_key("to-evaluate", scale), description=text)
    return text


def earlier(checkpoint: Checkpoint, suite: str) -> Iterator[Record]:
    """Return every report of a checkpoint on a suite, of whatever version, newest first."""
    mine = [
        record
        for record in store().records(EvalReport.kind)
        if record.artifact.get("suite") == suite
        and checkpoint.fingerprint in {given["fingerprint"] for given in record.inputs["checkpoint"]}
    ]
    yield from sorted(mine, key=lambda record: record.started, reverse=True)


def moved(before: dict[str, Any], now: dict[str, Any], checkpoint: str, tolerance: float) -> list[ScoreChange]:
    """Return the tasks that two reports measured in the same way (device, precision, protocol and data) with different scores."""
    differing = [name for name in MEASURED_BY if before[name] != now[name]]
    if differing:
        log.warning("%s is not compared: its earlier report has a different %s", checkpoint, ", ".join(differing))
        return []
    known = {task["key"]: task for task in before["tasks"]}
    found: list[ScoreChange] = []
    for task_now in now["tasks"]:
        task_before = known.get(task_now["key"])
        if task_before is None or any(task_before[name] != task_now[name] for name in ("protocol_version", "data")):
            continue
        values = task_before["value"], task_now["value"]
        if None not in values and abs(values[0] - values[1]) > tolerance:
            found.append(ScoreChange(checkpoint, task_now["key"], *values))
    return found


@task(name="score again", **policies.LOCAL)
def score_again(
    spec: evaluation.EvalSpec, checkpoint: Checkpoint, evalsets: EvalSets, tolerance: float
) -> tuple[EvalReport, list[ScoreChange]]:
    """Return the report of a checkpoint, and what changed. If there is no report it is made, otherwise the checkpoint is
    measured again outside the store."""
    planned = evaluation.evaluate.plan(spec, checkpoint, evalsets, store=store())
    before = next(earlier(checkpoint, spec.suite), None)
    if planned.artifact is None:
        report = evaluating.evaluate.fn(spec, checkpoint, evalsets)
        now = store().folder(report).read_json(REPORT)
    else:
        report, now = planned.artifact, _measured(spec, checkpoint, evalsets)
    if before is None:
        return report, []
    was = store().folder(store().artifact(EvalReport, before)).read_json(REPORT)
    return report, moved(was, now, checkpoint.address, tolerance)


def _measured(spec: evaluation.EvalSpec, checkpoint: Checkpoint, evalsets: EvalSets) -> dict[str, Any]:
    with slot(EvalReport.kind), tempfile.TemporaryDirectory() as scratch:
        out = Folder(scratch)
        how = {"device": settings().device, "workers": settings().num_workers}
        evaluation.evaluate.function(spec, checkpoint, evalsets, out=out, store=store(), **how)
        return out.read_json(REPORT)


def table_row(change: ScoreChange) -> dict[str, str]:
    """Scores in percent, with more digits than a page has: a drift is small."""
    return {
        "checkpoint": change.checkpoint,
        "task": change.task,
        "before": percent(change.before, EXACT),
        "now": percent(change.now, EXACT),
        "by (points)": points(change.now - change.before, EXACT),
    }


def alarm(scale: str, changes: list[ScoreChange], tolerance: float) -> None:
    """Do nothing if nothing changed; else send an event, write an artifact, and raise a DataError that fails the run."""
    if not changes:
        return
    rows = [asdict(change) | {"by": change.now - change.before} for change in changes]
    if in_run():
        told = f"Scores that moved by more than {100 * tolerance:g} points"
        create_table_artifact([table_row(change) for change in changes], key=artifact_key("drift", scale), description=told)
    emit_event(
        DRIFTED,
        resource={"prefect.resource.id": f"datacomp.board.{scale}", "prefect.resource.name": scale},
        payload={"moved": rows, "tolerance": tolerance},
    )
    worst = max(changes, key=lambda change: abs(change.now - change.before))
    raise DataError(
        f"{len(changes)} scores have changed: {worst.task} of {worst.checkpoint} was {worst.before:.6f} and is now "
        f"{worst.now:.6f}. Compare versions, device and test sets in the two records (`datacomp show`)."
    )
