"""What one sees of a step: events for whoever listens in this process, and artifacts in the Prefect UI.

Outside a Prefect run (a notebook, a test of `task.fn`) no artifact is left; everything else is the same.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from prefect.artifacts import create_image_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

from datacomp_core.artifacts import Artifact
from datacomp_core.progress import LogProgress
from datacomp_core.store import Outcome

Phase = Literal["started", "expected", "progress", "reused", "built", "failed"]


@dataclass(frozen=True)
class StepEvent:
    """One thing that happened to one step. `line` is for people; `share` is 0..1 where the total is known."""

    kind: str
    name: str
    phase: Phase
    line: str = ""
    share: float | None = None
    seconds: float = 0.0


LISTENERS: list[Callable[[StepEvent], None]] = []


def tell(event: StepEvent) -> None:
    for listener in LISTENERS:
        listener(event)


def in_task_run() -> bool:
    return TaskRunContext.get() is not None


def in_run() -> bool:
    return in_task_run() or FlowRunContext.get() is not None


def artifact_key(*words: str) -> str:
    """Prefect's form of a key: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


class StepProgress(LogProgress):
    """Live progress of one step: an event and a Prefect progress artifact, updated in place every few seconds."""

    def __init__(self, kind: str, name: str, every: float = 2.0) -> None:
        super().__init__(f"{kind} {name}", every)
        self.kind, self.name = kind, name
        self._artifact: UUID | None = None

    def start(self, total: int, unit: str) -> None:
        super().start(total, unit)
        tell(StepEvent(self.kind, self.name, "progress", self.line(), 0.0 if total else None))

    def show(self) -> None:
        share = self.done / self.total if self.total else None
        tell(StepEvent(self.kind, self.name, "progress", self.line(), share))
        if share is None or not in_task_run():
            return
        percent, text = min(100.0, 100 * share), self.line()
        if self._artifact is None:
            self._artifact = _id(
                create_progress_artifact(percent, key=artifact_key(self.kind, self.name, "progress"), description=text)
            )
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def finish(self) -> None:
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0, description=self.line())


def leave_picture(artifact: Artifact, svg: bytes, what: str) -> None:
    """A picture of what a step did, as an image artifact; it travels inside its url, so that no file need be served."""
    if in_task_run():
        url = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
        create_image_artifact(url, key=artifact_key(artifact.kind, artifact.name, what), description=f"{artifact.name}: {what}")


def leave_summary(outcome: Outcome[Any]) -> UUID | None:
    """A table of what the step did: reused or built and why, counts by reason, bytes, seconds, address, inputs. Its id."""
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
    own = artifact.model_dump(exclude={"scale", "name", "address", "data", "fingerprint", "content", "counts"})
    rows += [{"what": name, "value": str(value)} for name, value in own.items()]
    rows += [{"what": f"count: {reason}", "value": f"{number:,}"} for reason, number in artifact.counts.items()]
    rows += [{"what": f"input: {name}", "value": given["address"]} for name, inputs in record.inputs.items() for given in inputs]
    title = f"{artifact.kind} {artifact.name}"
    return _id(create_table_artifact(rows, key=artifact_key(artifact.kind, artifact.name), description=title))


def _id(value: Any) -> UUID:
    return value
