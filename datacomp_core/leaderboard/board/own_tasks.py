"""Reads the scores of the board's checkpoints on the user's own tasks, from the reports in the store.

These scores count in no average, rank or verdict. No entry contains them, so a bundle does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

from datacomp_core.artifacts import OWN_SUITE, EvalReport
from datacomp_core.leaderboard.board.rows import BoardColumn
from datacomp_core.store import Store
from datacomp_core.store.record import Record

REPORT = "report.json"
PREFIX = "own:"
AVERAGE = BoardColumn(key="own", title="Own tasks", level="own")


class OwnScore(NamedTuple):
    """A checkpoint's score on one task."""

    key: str
    name: str
    metric: str
    value: float


OwnOf = Callable[[str], dict[str, OwnScore]]
"""From the address of a checkpoint to its scores on own tasks, by key."""


def reports(store: Store) -> Iterator[Record]:
    """Yield the records of reports on own tasks only, oldest first."""
    found = (record for record in store.records(EvalReport.kind) if record.artifact.get("suite") == OWN_SUITE)
    yield from sorted(found, key=lambda record: record.started)


def checkpoint_of(record: Record) -> str:
    """The address of the checkpoint that a report is about."""
    return record.inputs["checkpoint"][0]["address"]


def own_in(store: Store) -> OwnOf:
    """The scores of each checkpoint of a store, from the newest report of each task."""

    @cache
    def by_checkpoint() -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in reports(store):
            if not store.missing(record):
                found.setdefault(checkpoint_of(record), []).append(record)
        return found

    @cache
    def of_checkpoint(address: str) -> dict[str, OwnScore]:
        scores: dict[str, OwnScore] = {}
        for record in by_checkpoint().get(address, ()):
            told = store.folder(store.artifact(EvalReport, record)).read_json(REPORT)
            scores |= {one.key: one for task in told["tasks"] if (one := _score(task)) is not None}
        return scores

    return of_checkpoint


def _score(task: dict[str, Any]) -> OwnScore | None:
    if not task["main_metric"] or task["value"] is None:
        return None
    return OwnScore(task["key"], task["name"], task["main_metric"], float(task["value"]))


def columns(found: Iterable[dict[str, OwnScore]]) -> list[BoardColumn]:
    """Return the average's column, then one for each task that any checkpoint has."""
    tasks = {one.key: one for scores in found for one in scores.values()}
    own = [
        BoardColumn(key=PREFIX + one.key, title=one.name, level="own task", metric=one.metric, scored=False)
        for one in tasks.values()
    ]
    return [AVERAGE, *own] if own else []


def value_of(scores: dict[str, OwnScore], column: BoardColumn, all_columns: Sequence[BoardColumn]) -> float | None:
    """Return a checkpoint's value in a column; the average only if it has every task."""
    if column is not AVERAGE:
        found = scores.get(column.key.removeprefix(PREFIX))
        return None if found is None else found.value
    values = [value_of(scores, one, all_columns) for one in all_columns if one is not AVERAGE]
    there = [value for value in values if value is not None]
    return fmean(there) if len(there) == len(values) else None
