"""Finds the checkpoints to score again, and the scores that differ from the checkpoint's earlier report."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Checkpoint, EvalReport, EvalSets
from datacomp_core.evaluation.evaluate import EvalSpec, evaluate
from datacomp_core.evaluation.report import REPORT
from datacomp_core.store import Folder, Store
from datacomp_core.store.record import Record

log = logging.getLogger(__name__)

MEASURED_BY = ("device", "precision", "compiled")
"""Fields of a report: if one of them differs between two reports, the last digits of every score may differ."""


@dataclass(frozen=True)
class ScoreChange:
    """One task whose score has changed."""

    checkpoint: str
    task: str
    before: float
    now: float


def without_report(store: Store, scale: str, spec: EvalSpec, evalsets: EvalSets) -> list[Checkpoint]:
    """Return the checkpoints of a scale's recipe that have no report of the current suite."""
    own = (record for record in store.records(Checkpoint.kind) if record.spec["spec"]["recipe"]["name"] == scale)
    found = [store.artifact(Checkpoint, record) for record in own]
    return [one for one in found if not evaluate.plan(spec, one, evalsets, store=store).is_built]


def earlier_reports(store: Store, checkpoint: Checkpoint, suite: str) -> Iterator[Record]:
    """Return every report of a checkpoint on a suite, of any version, newest first."""
    mine = [
        record
        for record in store.records(EvalReport.kind)
        if record.artifact.get("suite") == suite
        and checkpoint.fingerprint in {given["fingerprint"] for given in record.inputs["checkpoint"]}
    ]
    yield from sorted(mine, key=lambda record: record.started, reverse=True)


def measured_again(
    spec: EvalSpec, checkpoint: Checkpoint, evalsets: EvalSets, *, store: Store, device: str, workers: int
) -> dict[str, Any]:
    """Evaluate a checkpoint outside the store; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Folder(scratch)
        evaluate.function(spec, checkpoint, evalsets, out=out, store=store, device=device, workers=workers)
        return out.read_json(REPORT)


def changes_between(before: dict[str, Any], now: dict[str, Any], checkpoint: str, tolerance: float) -> list[ScoreChange]:
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
