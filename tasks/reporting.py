"""Writes the artifacts of a step in the Prefect UI. Outside a Prefect run (a notebook, a test of `task.fn`) it writes no
artifact.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    ProgressArtifact,
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

from datacomp_core.artifacts import Artifact
from datacomp_core.leaderboard.board.findings import percent
from datacomp_core.redaction import redact, redact_all
from datacomp_core.store import StepOutcome
from tasks import published
from tasks.events import EventProgress

AVERAGE, CANDIDATES = "average", "candidates"


def in_task_run() -> bool:
    return TaskRunContext.get() is not None


def in_run() -> bool:
    return in_task_run() or FlowRunContext.get() is not None


def artifact_key(*words: str) -> str:
    """Prefect's form of a key: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


class StepProgress(EventProgress):
    """Live progress of one step: an event and a Prefect progress artifact, updated in place every few seconds."""

    _artifact: UUID | None = None

    def show(self) -> None:
        super().show()
        if self.share is None or not in_task_run():
            return
        self._publish(min(100.0, 100 * self.share))

    def finish(self) -> None:
        """Complete the artifact, also one that a killed run left unfinished: the rest of its work may be too short to show."""
        if self._artifact is not None or (self.total and in_task_run() and self._is_left_unfinished()):
            self._publish(100.0)

    @property
    def _key(self) -> str:
        return artifact_key(self.kind, self.name, "progress")

    def _publish(self, percent: float) -> None:
        text = redact(self.line())
        if self._artifact is None:
            self._artifact = _id(create_progress_artifact(percent, key=self._key, description=text))
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def _is_left_unfinished(self) -> bool:
        found: Any = ProgressArtifact.get(self._key)
        return found is not None and float(found.data) < 100.0


def publish_picture(artifact: Artifact, picture: bytes, what: str, *, suffix: str, description: str = "") -> None:
    """Write a picture of a step's result as an image artifact, with a link to the page of its scale."""
    if not in_task_run():
        return
    key = artifact_key(artifact.kind, artifact.name, what)
    url = published.publish(f"pictures/{published.file_name(key, suffix=suffix)}", picture)
    board = f"[Report page of {artifact.scale}]({published.link(f'{artifact.scale}.html')})"
    create_image_artifact(url, key=key, description=f"{description or f'{artifact.name}: {what}'} {board}")


def publish_summary(outcome: StepOutcome[Any]) -> UUID | None:
    """Write a table of the step's work: reused or built and why, counts by reason, bytes, seconds, address, inputs. Returns its
    id."""
    if not in_task_run():
        return None
    record, artifact = outcome.record, outcome.artifact
    rows: list[dict[str, Any]] = [
        {"what": "status", "value": f"{outcome.status}: {outcome.why}"},
        {"what": "address", "value": artifact.address},
        {"what": "fingerprint", "value": artifact.fingerprint},
        {"what": "files", "value": f"{record.outputs.num_files:,}"},
        {"what": "bytes", "value": f"{record.outputs.num_bytes:,}"},
        {"what": "seconds", "value": f"{record.seconds:,.1f}"},
    ]
    rows += rows_about(artifact)
    rows += [{"what": f"input: {name}", "value": given["address"]} for name, inputs in record.inputs.items() for given in inputs]
    rows = redact_all(rows)
    title = redact(f"{artifact.kind} {artifact.name}")
    return _id(create_table_artifact(rows, key=artifact_key(artifact.kind, artifact.name), description=title))


def rows_about(artifact: Artifact) -> list[dict[str, Any]]:
    """Return an artifact's fields and counts as rows, with scores and shares in percent as on the page."""
    own = artifact.model_dump(exclude={"scale", "name", "address", "data", "fingerprint", "content", "counts"})
    counts = [{"what": f"count: {reason}", "value": _count(number, artifact)} for reason, number in artifact.counts.items()]
    return [*({"what": name, "value": _value(name, value)} for name, value in own.items()), *counts]


def _value(name: str, value: Any) -> str:
    if name == AVERAGE:
        return "–" if value is None else percent(value)
    return f"{value:,}" if name.startswith("num_") else str(value)


def _count(number: int, artifact: Artifact) -> str:
    """A count, of a download with its share of the candidates, as the page has it."""
    candidates = artifact.counts.get(CANDIDATES, 0)
    return f"{number:,} ({percent(number / candidates)})" if candidates else f"{number:,}"


def _id(value: Any) -> UUID:
    return value
