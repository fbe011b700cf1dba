"""Flow that searches for a filter: batches of trials, each an experiment of the same chain, then fresh runs of the winner and a
verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DataError, SpecError
from flows.chain import each_once, experiment
from flows.parameters import ExperimentSpec
from flows.search_loop import Measured, SearchLoop
from flows.search_spec import SearchSpec
from flows.task_calls import Call, SubmittedCalls, options
from tasks.board import publish_board, publish_site
from tasks.run_step import store
from tasks.search import publish_search


@flow(name="search", **options("{scale}-{name}-search"))
def search(spec: SearchSpec) -> str:
    """Search until the budget is spent, run the winner again, and report whether it is better; write the pages of its trials.
    Returns the search's address. DataError if no trial has a score.
    """
    loop = SearchLoop(spec, store(), measured)
    try:
        for _ in loop.run():
            publish_search(loop.address)
        for scale in dict.fromkeys(scale for scale, _ in spec.rungs()):
            publish_site(scale)
    finally:
        publish_board(spec.scale)
        publish_search(loop.address)
    return loop.address


def measured(groups: Sequence[Sequence[ExperimentSpec]]) -> list[Measured]:
    """Return the entries of each group of experiments, or why it has none; shared steps run once."""
    calls = SubmittedCalls()
    once = each_once(calls.call)
    asked = [requested(once, group) for group in groups]
    calls.settled()
    return [_outcome(*one) for one in asked]


def requested(call: Call, group: Sequence[ExperimentSpec]) -> tuple[list[Any], list[Any], Exception | None]:
    """Call the steps of a group: its entries, all that was called, and why it cannot be done, such as a column the pool lacks."""
    own: list[Any] = []
    try:
        return [experiment(_noted(call, own), spec).entry for spec in group], own, None
    except (DataError, SpecError) as problem:
        return [], own, problem


def _noted(call: Call, made: list[Any]) -> Call:
    """`call`, that also appends what it returns to `made`."""

    def noted(task: Any, /, *identity: Any, **options: Any) -> Any:
        made.append(call(task, *identity, **options))
        return made[-1]

    return noted


def _outcome(wanted: list[Any], own: list[Any], problem: Exception | None) -> Measured:
    """A group's entries, or the first failure among its own calls."""
    for future in own:
        if problem is None and hasattr(future, "state") and (future.state.is_failed() or future.state.is_crashed()):
            found = future.result(raise_on_failure=False)
            problem = found if isinstance(found, Exception) else DataError(str(found))
    if problem is not None:
        return [], problem
    return [_entry(future) for future in wanted], None


def _entry(future: Any) -> BoardEntry:
    return future.result()
