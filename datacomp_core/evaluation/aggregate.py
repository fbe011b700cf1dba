"""From task results to groups and averages. An average over fewer tasks than the suite has is never given: it is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datacomp_core.evaluation.catalog import EvalTask, Suite


def mean_of(tasks: Sequence[EvalTask], values: Mapping[str, float]) -> float | None:
    """Plain mean of the main metrics of `tasks`, each of weight 1; None if one is missing or there are none."""
    if not tasks or any(task.key not in values for task in tasks):
        return None
    return sum(values[task.key] for task in tasks) / len(tasks)


def average(suite: Suite, values: Mapping[str, float]) -> float | None:
    """The average: over all scored tasks of the suite (DataComp: 38)."""
    return mean_of(suite.scored, values)


def groups(suite: Suite, values: Mapping[str, float]) -> dict[str, float | None]:
    """The suite's group averages, as the reference's `aggregate_scores.py` makes them."""
    return {name: mean_of([task for task in suite.scored if task.group == name], values) for name in suite.groups}


def clean(suite: Suite, values: Mapping[str, float]) -> float | None:
    """The average without the tasks on which everything is near chance (DataComp: the paper's 33)."""
    return mean_of([task for task in suite.scored if not task.near_chance], values)


def above_chance(suite: Suite, values: Mapping[str, float]) -> float | None:
    """Mean of (score - chance) / (1 - chance) over the scored tasks with a known chance level: 0 is guessing, 1 perfect."""
    known = [(task, task.chance) for task in suite.scored if task.chance is not None]
    over = {task.key: (values[task.key] - chance) / (1 - chance) for task, chance in known if task.key in values}
    return mean_of([task for task, _ in known], over)


def missing(suite: Suite, values: Mapping[str, float]) -> list[str]:
    """Keys of the scored tasks that have no value."""
    return [task.key for task in suite.scored if task.key not in values]
