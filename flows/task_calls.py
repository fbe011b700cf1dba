"""Submits the tasks of a flow together; each starts when its inputs are available."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, cast
from uuid import UUID

from prefect import Flow, Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import TerminationSignal
from prefect.flows import FlowStateHook
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Cancelling
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from datacomp_core import interruptible_wait
from datacomp_core.errors import StoppedError
from datacomp_core.parallel import end_children
from flows import naming
from tasks import lineage
from tasks.run_step import STOPPING

# Threads wait more than they work (tasks/concurrency.py limits the work). A task is submitted after its inputs, and threads take
# tasks in that order, so a waiting task never blocks the last thread for a task it waits for.
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=64))  # its declared type is a narrower future


P = ParamSpec("P")
A = TypeVar("A")


class Call(Protocol):
    """Calls a step by its task: submits it to Prefect, runs it at once, or only plans it.

    What it returns (a future, an artifact, a plan) is passed to the next call unopened. For the type checker it is the artifact
    of the step, so a chain that passes the wrong artifact is an error of types.
    """

    def __call__(self, task: Task[P, A], /, *identity: P.args, **options: P.kwargs) -> A: ...


RUNNING: set[UUID] = set()
"""The unfinished flow runs of this process, so that an interrupt can be reported to the server."""


def _began(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    RUNNING.add(flow_run.id)


def _ended(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    RUNNING.discard(flow_run.id)


def _stopped(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Stop the runs that this run requested from other workers."""
    wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=wanted):
            if run.state is None or not run.state.is_final():
                client.set_flow_run_state(
                    run.id, Cancelling(message=f"The run {flow_run.name} that requested this run was stopped.")
                )
        ended = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run.id]))
        for task_run in client.read_task_runs(task_run_filter=ended):
            if task_run.state is not None and StoppedError.__name__ in (task_run.state.message or ""):
                client.set_task_run_state(task_run.id, Cancelled(message="Stopped with its run."), force=True)


class FlowOptions(TypedDict):
    """The options of every flow."""

    flow_run_name: Callable[[], str]
    task_runner: TaskRunner[PrefectFuture[Any]]
    persist_result: bool
    on_running: list[FlowStateHook[..., Any]]
    on_completion: list[FlowStateHook[..., Any]]
    on_failure: list[FlowStateHook[..., Any]]
    on_cancellation: list[FlowStateHook[..., Any]]
    on_crashed: list[FlowStateHook[..., Any]]


def options(run_name: str) -> FlowOptions:
    """Return the options of every flow. `run_name` is the pattern of its runs' names, over the fields of its `spec`."""
    naming.quieten()
    return {
        "flow_run_name": naming.run_name(run_name),
        "task_runner": RUNNER,
        "persist_result": False,
        "on_running": [_began],
        "on_completion": [_ended],
        "on_failure": [_ended, naming.name_refused_runs(run_name)],
        "on_cancellation": [_ended, _stopped],
        "on_crashed": [_ended, _stopped],
    }


def cancel_running() -> None:
    """Mark this process's flow runs as cancelled; the caller ends the process."""
    with get_client(sync_client=True) as client:
        for run in tuple(RUNNING):
            client.set_flow_run_state(run, Cancelled(message="Interrupted at the terminal."), force=True)


def _wait(future: PrefectFuture[Any]) -> None:
    over = threading.Event()
    future.add_done_callback(lambda _: over.set())
    interruptible_wait.wait_for_event(over)
    future.wait()


class SubmittedCalls:
    """The calls of one flow run: `call` submits a task, `results` waits for all of them."""

    def __init__(self) -> None:
        self._futures: list[PrefectFuture[Any]] = []

    def call(self, task: Task[P, A], /, *identity: P.args, **options: P.kwargs) -> A:
        """Submit a task; it waits for the futures among `identity`. A `Call`: its future represents the artifact."""
        self._futures.append(task.submit(*identity, **options))
        return cast("A", self._futures[-1])

    def settled(self) -> None:
        """Wait until every call has ended, successfully or not."""
        try:
            for future in self._futures:
                _wait(future)
        except TerminationSignal:  # a cancelled run: threads cannot be stopped, but what they wait for can be
            STOPPING.set()
            end_children()
            raise

    def results(self, wanted: list[Any]) -> list[Any]:
        """Return the results of the `wanted` futures. An error is raised only when every call has ended, so the work of the
        others is kept. A call that never started because an input failed is not a separate error: the original failure is raised.
        """
        self.settled()
        lineage.publish()
        failed = [future for future in self._futures if future.state.is_failed() or future.state.is_crashed()]
        for future in failed:
            future.result()
        return [future.result() for future in wanted]
