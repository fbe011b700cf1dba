"""Computes the value of a trial, and of the winner after selection: pure functions on entries and per-image scores.

The best of many trials is partly lucky: in its seed, and in the test images that it was scored on. So the images of each task
are split into halves. The search sees one half. The winner is trained again with fresh seeds and compared with the baseline on
the other half, which influenced no choice. The winner's curse is its lead in the search minus its lead there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.leaderboard.board.findings import points
from datacomp_core.leaderboard.board.stats import Interval, Verdict, compare
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.per_image_scores import PerImageScores
from datacomp_core.sampling_key import mixed_bits

Half = Literal["search", "held_out"]
Outcome = Literal["better", "no_better"]


class ScoredEntry(BaseModel):
    """One entry: its tasks' values, and the hits of those whose predictions are kept."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    tasks: dict[str, float]
    hits: dict[str, PerImageScores]

    @classmethod
    def of(cls, entry: Entry, hits: Mapping[str, PerImageScores]) -> ScoredEntry:
        """The scored tasks of an entry that have a value."""
        tasks = {task.key: task.value for task in entry.tasks if task.scored and task.value is not None}
        return cls(tasks=tasks, hits={key: found for key, found in hits.items() if key in tasks})


def half_of(hits: PerImageScores, key: str, half: Half) -> PerImageScores:
    """Half of a task's images: of each class or group every second one, in an order that the task's name alone decides."""
    start = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    order = mixed_bits(np.arange(len(hits.values), dtype=np.uint64) ^ start)
    by_stratum = np.lexsort((order, hits.strata))
    strata = hits.strata[by_stratum]
    starts = np.flatnonzero(np.diff(strata, prepend=strata[:1] - 1))
    rank = np.arange(len(strata)) - np.repeat(starts, np.diff(np.append(starts, len(strata))))
    chosen = np.sort(by_stratum[rank % 2 == (0 if half == "search" else 1)])
    return PerImageScores(hits.values[chosen], hits.strata[chosen], hits.combine)


def scores(run: ScoredEntry, half: Half) -> dict[str, float]:
    """A run's tasks on half of their images. A task without hits stands as a whole in the search, and not in what is held out."""
    found = {key: half_of(hits, key, half) for key, hits in run.hits.items()}
    made = {key: hits.score() for key, hits in found.items() if len(hits.values)}
    return {**run.tasks, **made} if half == "search" else made


def value(run: ScoredEntry) -> float | None:
    """Return the search's objective: the mean of the scored tasks on its half of the images. None if no task is scored."""
    found = list(scores(run, "search").values())
    return float(np.mean(found)) if found else None


class SearchVerdict(BaseModel):
    """The answer of a search."""

    model_config = ConfigDict(frozen=True)
    outcome: Outcome
    winner: int = Field(description="The number of the trial.")
    against: str
    num_trials: int
    led_by: float = Field(description="Winner minus baseline in the search: its seeds, its half of the images.")
    leads_by: float = Field(description="The same with fresh seeds, on the held-out half.")
    verdict: Verdict | None = Field(description="On fresh seeds and held-out images; None if fewer than two tasks have them.")
    sentence: str

    @property
    def curse(self) -> float:
        """The part of the lead that is due to selection."""
        return self.led_by - self.leads_by


def judge(
    winner: int,
    against: str,
    num_trials: int,
    searched: tuple[Sequence[float], Sequence[float]],
    ours: Sequence[ScoredEntry],
    theirs: Sequence[ScoredEntry],
) -> SearchVerdict:
    """`searched`: values of the winner and of the baseline in the search, a seed each; `ours`, `theirs`: their fresh runs."""
    sides = [[scores(run, "held_out") for run in side] for side in (ours, theirs)]
    keys = [key for key in sides[0][0] if all(key in run for side in sides for run in side)]
    by_task = [{key: [run[key] for run in side] for key in keys} for side in sides]
    held = [[{key: half_of(run.hits[key], key, "held_out") for key in keys} for run in side] for side in (ours, theirs)]
    verdict = compare(by_task[0], by_task[1], against, images=(held[0], held[1]))
    led_by = float(np.mean(searched[0]) - np.mean(searched[1]))
    leads_by = float(np.mean([np.mean(by_task[0][key]) - np.mean(by_task[1][key]) for key in keys])) if keys else 0.0
    outcome: Outcome = "better" if verdict is not None and verdict.outcome == "better" else "no_better"
    made = SearchVerdict(
        outcome=outcome,
        winner=winner,
        against=against,
        num_trials=num_trials,
        led_by=led_by,
        leads_by=leads_by,
        verdict=verdict,
        sentence="",
    )
    return made.model_copy(update={"sentence": _sentence(made, len(ours))})


def _sentence(made: SearchVerdict, seeds: int) -> str:
    if made.verdict is None:
        return f"No verdict on trial {made.winner}: fewer than two tasks keep predictions of both sides to hold out."
    low = min(interval.low for interval in _intervals(made.verdict))
    high = max(interval.high for interval in _intervals(made.verdict))
    said = f"{points(made.leads_by)} points ({points(low)} to {points(high)})"
    found = f"with {seeds} fresh seeds on held-out test images"
    selected = f"{points(made.curse)} of that came from selection among {made.num_trials} trials"
    curse = f"In the search it led by {points(made.led_by)}, and {selected}."
    if made.outcome == "better":
        return f"Trial {made.winner} is better than {made.against}: {said} {found}. {curse}"
    noise = "" if made.verdict.outcome == "worse" else ", which may be noise"
    return f"No better than {made.against}: the best trial, {made.winner}, is {said} from it {found}{noise}. {curse}"


def _intervals(verdict: Verdict) -> list[Interval]:
    return [one for one in (verdict.over_tasks, verdict.over_seeds, verdict.over_images) if one is not None]
