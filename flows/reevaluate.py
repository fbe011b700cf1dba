"""Evaluates checkpoints again if their evaluation is missing or from an older suite, or if they are named. A second evaluation
must give the same numbers. Drift beyond the tolerance raises an alarm: an event
`datacomp.evaluation.drifted`, an artifact with the tasks that moved, and a failed run.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from datacomp_core.artifacts import EvalReport, Spec
from datacomp_core.evaluation.score_changes import ScoreChange
from flows.chain import testsets
from flows.parameters import EvalsetsAddress, ExperimentSpec, ScaleChoice
from flows.task_calls import options
from tasks import reevaluation


class ReevaluationSpec(Spec):
    """Which checkpoints, and how far a score may move."""

    scale: ScaleChoice = "tiny"
    evalsets: EvalsetsAddress = ""
    checkpoints: tuple[str, ...] = Field(
        default=(),
        description="Addresses of checkpoints to score again. Empty: all checkpoints without a report of the current suite.",
    )
    tolerance: float = Field(
        default=1e-4, ge=0, description="Largest allowed difference of a task's main metric from the earlier report."
    )


@flow(name="reevaluate", **options("{scale}-reevaluate"))
def reevaluate(spec: ReevaluationSpec) -> State[list[EvalReport]]:
    """Evaluate missing, outdated and named checkpoints; compare; raise an alarm on drift.

    The run's state says how many there were, also where that is none.
    """
    scoring = ExperimentSpec(scale=spec.scale, recipe="no_filter", evalsets=spec.evalsets).scoring()
    evalsets = testsets(_now, scoring)
    made: list[EvalReport] = []
    moved: list[ScoreChange] = []
    waiting = reevaluation.waiting(spec.scale, scoring.evaluate, evalsets, spec.checkpoints)
    told = reevaluation.publish_waiting(spec.scale, waiting, named=bool(spec.checkpoints))
    for checkpoint in waiting:
        report, changes = reevaluation.reevaluate_checkpoint(scoring.evaluate, checkpoint, evalsets, spec.tolerance)
        made.append(report)
        moved += changes
    reevaluation.alarm(spec.scale, moved, spec.tolerance)
    return Completed(message=told, data=made)


def _now(task: Any, /, *identity: Any, **options: Any) -> Any:
    return task(*identity, **options)
