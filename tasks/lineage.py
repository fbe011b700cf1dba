"""Records the lineage of one flow run: a table in the UI with links to each step's inputs and to the steps that read it."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext, TaskRunContext

from datacomp_core.store import StepOutcome
from tasks.reporting import artifact_key

HEAD = "| step | what was done | made from | read by |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class FinishedStep:
    """A step of a flow run, and its table in the UI."""

    outcome: StepOutcome[Any]
    table: UUID

    @property
    def link(self) -> str:
        return f"[{self.outcome.artifact.kind} {breakable(self.outcome.artifact.name)}](/v2/artifacts/artifact/{self.table})"

    @property
    def made_from(self) -> list[str]:
        return [given["address"] for inputs in self.outcome.record.inputs.values() for given in inputs]


def breakable(name: str) -> str:
    """Return a name that a page may break after each punctuation mark: otherwise a nested filter's name overflows its column."""
    return re.sub(r"([+_./-])", "\\1\u200b", name)


_done: dict[UUID, dict[str, FinishedStep]] = {}
_lock = threading.Lock()


def record_step(outcome: StepOutcome[Any], table: UUID | None) -> None:
    """Record a step of this task's flow run; do nothing outside a flow run."""
    context = TaskRunContext.get()
    if context is None or context.task_run.flow_run_id is None or table is None:
        return
    with _lock:
        _done.setdefault(context.task_run.flow_run_id, {})[outcome.artifact.address] = FinishedStep(outcome, table)


def publish() -> None:
    """Write the table of the current flow run and clear its steps."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with _lock:
        steps = _done.pop(context.flow_run.id, {})
    if steps:
        key = artifact_key("lineage", context.flow_run.name)
        create_markdown_artifact(_table(steps), key=key, description="Lineage of this run, with a link to the table of each step")


def _table(steps: dict[str, FinishedStep]) -> str:
    """Return Markdown: one row per step by address, in the order in which they ended."""

    def links(addresses: list[str]) -> str:
        return ", ".join(steps[one].link if one in steps else f"`{one}`" for one in addresses)

    rows: list[str] = []
    for address, done in steps.items():
        readers = [reader for reader, step in steps.items() if address in step.made_from]
        status = done.outcome.status
        took = f" in {done.outcome.record.seconds:,.1f} s" if status == "built" else ""
        rows.append(f"| {done.link} | {status}{took} | {links(done.made_from)} | {links(readers)} |")
    return HEAD + "\n".join(rows)
