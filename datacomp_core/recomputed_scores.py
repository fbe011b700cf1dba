"""Registers the function that recomputes a report's scores from its evidence, for callers that must not trust the report.

The stages never import one another, so the evaluation registers its function here when it is imported (as steps do in
`store.step`), and the check of bundles looks it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Predictions = Callable[[str], Mapping[str, npt.NDArray[Any]] | None]
"""A function from a task's key to the arrays that its protocol kept; None if there are none."""


@dataclass(frozen=True)
class TaskScore:
    """One task of a suite. `value` is computed from the predictions; None where the task has no main metric or was not run."""

    key: str
    name: str
    metric: str
    scored: bool
    value: float | None
    in_report: bool = True


@dataclass(frozen=True)
class RecomputedScores:
    """A report computed again. `wrong` says, a sentence each, what the report claims beside its evidence."""

    suite: str
    suite_version: int
    tasks: tuple[TaskScore, ...]
    average: float | None
    groups: dict[str, float | None]
    wrong: tuple[str, ...] = ()
    outside: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """The report's values for tasks outside the suite. They are not recomputed and never published."""


Rescore = Callable[[bytes, Predictions], RecomputedScores]
_registered: list[Rescore] = []


def register(function: Rescore) -> Rescore:
    """Decorator: `function(report.json, predictions)` computes a report again. DataError if it is not a report of a known
    suite."""
    _registered.append(function)
    return function


def registered() -> Rescore | None:
    """The function that was registered last; None if the evaluation was not imported."""
    return _registered[-1] if _registered else None
