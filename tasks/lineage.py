"""What was made of what in one flow run: a table in the UI whose links lead up to a step's inputs and down to what read it."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext, TaskRunContext

from datacomp_core.store import Outcome
from tasks.reporting import artifact_key

HEAD = "| step | what was done | made from | read by |\n|---|---|---|---|\n"

_outcomes: dict[UUID, dict[str, Outcome[Any]]] = {}
_lock = threading.Lock()


def note(outcome: Outcome[Any]) -> None:
    """Remember a step of the flow run that this task belongs to; nothing outside of one."""
    context = TaskRunContext.get()
    if context is None or context.task_run.flow_run_id is None:
        return
    with _lock:
        _outcomes.setdefault(context.task_run.flow_run_id, {})[outcome.artifact.address] = outcome


def leave() -> None:
    """The table of the flow run that this is called in; its steps are forgotten."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with _lock:
        outcomes = _outcomes.pop(context.flow_run.id, {})
    if outcomes:
        create_markdown_artifact(
            table(outcomes),
            key=artifact_key("lineage", context.flow_run.name),
            description="What was made of what, with a link to the table of each step",
        )


def table(outcomes: dict[str, Outcome[Any]]) -> str:
    """Markdown: a row for each step by address, in the order in which they ended."""
    sources = {address: list(_inputs(outcome)) for address, outcome in outcomes.items()}

    def cell(addresses: list[str]) -> str:
        return ", ".join(_link(outcomes[one]) if one in outcomes else f"`{one}`" for one in addresses)

    rows: list[str] = []
    for address, outcome in outcomes.items():
        readers = [reader for reader, given in sources.items() if address in given]
        done = outcome.status if outcome.status == "reused" else f"{outcome.status} in {outcome.record.seconds:,.1f} s"
        rows.append(f"| {_link(outcome)} | {done} | {cell(sources[address])} | {cell(readers)} |")
    return HEAD + "\n".join(rows)


def _inputs(outcome: Outcome[Any]) -> list[str]:
    return [given["address"] for inputs in outcome.record.inputs.values() for given in inputs]


def _link(outcome: Outcome[Any]) -> str:
    kind, name = outcome.artifact.kind, outcome.artifact.name
    return f"[{kind} {name}](/artifacts/key/{artifact_key(kind, name)})"
