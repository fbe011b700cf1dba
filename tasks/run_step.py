"""Runs one step in a Prefect task: opens the store, runs the step, reports. Every task of this package is a few lines around
`run`."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from prefect.context import FlowRunContext

from datacomp_core import engines
from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DatacompError, SpecError, StoppedError
from datacomp_core.redaction import redact_error
from datacomp_core.settings import settings
from datacomp_core.store import Step, Store
from datacomp_core.store.shared_code import share_code
from tasks import lineage, remote
from tasks.concurrency import slot
from tasks.events import StepEvent, tell
from tasks.reporting import StepProgress, publish_summary

A = TypeVar("A", bound=Artifact)
F = TypeVar("F", bound=Callable[..., Any])


SHOWN = 3
STOPPING = threading.Event()
"""Set when this process's run is cancelled: its children are ended, and a failure caused by that is not counted as its own."""


@cache
def _opened(url: str) -> Store:
    return Store.open(url)


def store() -> Store:
    """The store of this process's settings, checked once."""
    return _opened(settings().store_url)


def stored(kind: type[A], address: str) -> A:
    """Load an artifact of the store by its address. SpecError if there is none of that kind."""
    found = store().record(address)
    if found is not None and found.kind != kind.kind:
        raise SpecError(f"{address!r} is of kind {found.kind}, but {kind.kind} is required.")
    if found is None:
        known = list(store().addresses(kind.kind))
        near = difflib.get_close_matches(address, known, n=SHOWN, cutoff=0.0)
        there = f"nearest of {len(known)}: {', '.join(near)}" if known else f"the store has no {kind.kind}"
        raise SpecError(f"{store().root} has nothing of kind {kind.kind} at {address!r}: {there}.")
    return store().artifact(kind, found)


def runs(step: Step[Any]) -> Callable[[F], F]:
    """Mark a task's function with the step it runs, so that a chain of tasks can be planned without running it."""

    def mark(function: F) -> F:
        function.step = step  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return mark


def run(step: Step[A], *identity: Any, **options: Any) -> A:
    """Run one step in the store of the settings, report events, and write its summary in the Prefect UI."""
    _bounded()
    share_code(store())
    name = step.name(*identity)
    progress = StepProgress(step.kind, name)
    if "progress" in step.options:
        options["progress"] = progress
    if remote.needs_gpu_worker(step, identity, store()):
        tell(StepEvent(step.kind, name, "started", f"on {settings().gpu_deployment}"))
        remote.build(step, identity, name)
    with slot(step.kind, on_gpu=remote.is_for_gpu(step, identity)), engines.using(settings().engine):
        tell(StepEvent(step.kind, name, "started"))
        began = time.monotonic()
        try:
            outcome = step.run(*identity, store=store(), **options)
        except BaseException as problem:
            if STOPPING.is_set():
                raise StoppedError("The run was cancelled during this step: finished work is kept.") from None
            redact_error(problem)
            tell(StepEvent(step.kind, name, "failed", str(problem) or type(problem).__name__, None, time.monotonic() - began))
            raise
    progress.finish()
    lineage.record_step(outcome, publish_summary(outcome))
    tell(StepEvent(step.kind, name, outcome.status, outcome.why, 1.0, time.monotonic() - began))
    return outcome.artifact


def _bounded() -> None:
    """DatacompError for a flow run whose process was lost too often, because what restarts it does not count."""
    context, most = FlowRunContext.get(), settings().attempts
    if context is not None and context.flow_run is not None and context.flow_run.run_count > most:
        raise DatacompError(
            f"The process of this run was lost {most} times (DATACOMP_ATTEMPTS), so it is not restarted: check its worker's "
            "machine for the cause, for example memory."
        )
