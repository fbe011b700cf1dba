"""How flows call tasks: submitted together, each starting when what it needs is there."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.task_runners import ThreadPoolTaskRunner

# Threads wait more than they work (tasks/slots.py bounds the work). A task is submitted after what it needs, and threads take
# tasks in that order, so one that waits never holds the last thread from one it waits for.
RUNNER = ThreadPoolTaskRunner(max_workers=64)


def submit(task: Task[..., Any], *identity: Any) -> Any:
    """Submit a task; futures among `identity` are waited for."""
    return task.submit(*identity)


def settled(futures: list[Any]) -> list[Any]:
    """Results of all futures. The first error is raised only when every one has ended, so that the others' work is kept."""
    states = [(future, future.wait()) for future in futures]
    del states
    return [future.result() for future in futures]
