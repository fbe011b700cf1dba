"""How flows call tasks: submitted together, each starting when what it needs is there."""

from __future__ import annotations

from typing import Any, cast

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

# Threads wait more than they work (tasks/slots.py bounds the work). A task is submitted after what it needs, and threads take
# tasks in that order, so one that waits never holds the last thread from one it waits for.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=64))  # its own type is a narrower future


class Submitted:
    """The calls of one flow run: `call` submits, `results` waits for all of them."""

    def __init__(self) -> None:
        self._futures: list[PrefectFuture[Any]] = []

    def call(self, task: Task[..., Any], *identity: Any) -> PrefectFuture[Any]:
        """Submit a task; it waits for the futures among `identity`."""
        self._futures.append(task.submit(*identity))
        return self._futures[-1]

    def results(self, wanted: list[Any]) -> list[Any]:
        """What the `wanted` futures came to. An error is raised only when every call has ended, so the others' work is kept.

        A call that never started because what it needs failed is no error of its own: the failure is the one that is told.
        """
        for future in self._futures:
            future.wait()
        failed = [future for future in self._futures if future.state.is_failed() or future.state.is_crashed()]
        for future in failed:
            future.result()
        return [future.result() for future in wanted]
