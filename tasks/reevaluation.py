"""Scores checkpoints again, and raises an alarm when a score has changed."""

from __future__ import annotations

import logging
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from datacomp_core.artifacts import Checkpoint, EvalReport, EvalSets
from datacomp_core.errors import DataError
from datacomp_core.evaluation import evaluate as evaluation
from datacomp_core.evaluation import score_changes
from datacomp_core.evaluation.report import REPORT
from datacomp_core.evaluation.score_changes import ScoreChange
from datacomp_core.leaderboard.board.findings import percent, points
from datacomp_core.settings import settings
from tasks import evaluate as evaluating
from tasks import retry_policies
from tasks.concurrency import slot
from tasks.reporting import artifact_key, in_run
from tasks.run_step import store, stored

log = logging.getLogger(__name__)

DRIFTED = "datacomp.evaluation.drifted"
EXACT = 4
"""Digits of a percentage in the alarm's table."""


def waiting(scale: str, spec: evaluation.EvalSpec, evalsets: EvalSets, named: tuple[str, ...] = ()) -> list[Checkpoint]:
    """Return the checkpoints to score: the named ones, else all of a scale's recipe without a report of the current suite."""
    if named:
        return [stored(Checkpoint, address) for address in named]
    return score_changes.without_report(store(), scale, spec, evalsets)


def publish_waiting(scale: str, checkpoints: list[Checkpoint], *, named: bool) -> str:
    """Say in an artifact how many checkpoints are evaluated, and why no others are. Returns the sentence, for the run's state."""
    why = "named in the request" if named else f"of scale {scale}, without a report of the current suite"
    text = f"{len(checkpoints)} to evaluate: checkpoints {why}."
    log.info("%s", text)
    if in_run():
        rows = "".join(f"\n- `{checkpoint.address}`" for checkpoint in checkpoints)
        create_markdown_artifact(text + rows, key=artifact_key("to-evaluate", scale), description=text)
    return text


@task(name="score again", **retry_policies.LOCAL)
def reevaluate_checkpoint(
    spec: evaluation.EvalSpec, checkpoint: Checkpoint, evalsets: EvalSets, tolerance: float
) -> tuple[EvalReport, list[ScoreChange]]:
    """Return the report of a checkpoint, and what changed. If there is no report it is made, otherwise the checkpoint is
    measured again outside the store."""
    planned = evaluation.evaluate.plan(spec, checkpoint, evalsets, store=store())
    before = next(score_changes.earlier_reports(store(), checkpoint, spec.suite), None)
    if planned.artifact is None:
        report = evaluating.evaluate.fn(spec, checkpoint, evalsets)
        now = store().folder(report).read_json(REPORT)
    else:
        report, here = planned.artifact, settings()
        with slot(EvalReport.kind):
            now = score_changes.measured_again(
                spec, checkpoint, evalsets, store=store(), device=here.device, workers=here.num_workers
            )
    if before is None:
        return report, []
    was = store().folder(store().artifact(EvalReport, before)).read_json(REPORT)
    return report, score_changes.changes_between(was, now, checkpoint.address, tolerance)


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
