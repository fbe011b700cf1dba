"""The drawings of a search's page: the best so far with its noise, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datacomp_core.leaderboard.search.journal import Trial
from datacomp_core.leaderboard.search.space import ChoiceParameter, Free, Space
from datacomp_core.leaderboard.search.study import Study
from datacomp_core.leaderboard.site import theme
from datacomp_core.leaderboard.site.figures import drawing

MAX_AXES = 9
CHARACTERS = 72
"""That fit below the axes together."""


def best_so_far(study: Study) -> str:
    """Every trial as a dot, the best so far as a step, its noise between seeds as a band, the baseline as a line."""
    trials = study.complete
    with drawing(3.2) as (figure, axes):
        numbers = [trial.number for trial in trials]
        values = [100 * (trial.value or 0.0) for trial in trials]
        best = np.maximum.accumulate(values)
        axes.step(numbers, best, where="post", color=theme.series(0), label="best so far")
        if study.noise is not None:
            noise = 100 * study.noise
            axes.fill_between(numbers, best - noise, best + noise, step="post", color=theme.series(0), alpha=0.16, linewidth=0)
        axes.plot(numbers, values, "o", color=theme.series(0), markersize=3.5, alpha=0.6, label="a trial")
        if study.baseline is not None:
            level = 100 * float(np.mean(study.baseline.values))
            axes.axhline(level, color=theme.INK, linewidth=1, linestyle="--", label=study.against)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel("average on the search's images, %")
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=8.5)
        spoken = f"best so far {best[-1]:.2f} after {len(trials)} trials"
        return theme.to_svg(figure, "best", f"Average of each trial: {spoken}")


def parallel(study: Study) -> str:
    """A line a trial through its parameters and its average; the better, the stronger."""
    space, trials = Space(study.filter), study.complete
    names = [name for name in space.free if any(name in trial.params for trial in trials)]
    names = sorted(names, key=lambda name: -study.importance.get(name, 0.0))[:MAX_AXES]
    values = np.array([trial.value or 0.0 for trial in trials])
    worth: list[float] = values.tolist()
    order = np.argsort(values)
    rank = np.empty(len(values))
    rank[order] = np.arange(len(values)) / max(len(values) - 1, 1)
    with drawing(3.4) as (figure, axes):
        low, high = float(values.min()), float(values.max())
        for place in order.tolist():
            trial = trials[place]
            heights = [_height(space.free[name], trial.params[name]) if name in trial.params else np.nan for name in names]
            heights.append((worth[place] - low) / (high - low) if high > low else 0.5)
            best = trial.number == study.best
            color = theme.series(1) if best else theme.series(0)
            width, alpha = (2.4, 1.0) if best else (1.1, 0.12 + 0.6 * float(rank[place]) ** 2)
            axes.plot(range(len(heights)), heights, color=color, linewidth=width, alpha=alpha)
        for place, name in enumerate(names):
            _ends(axes, place, *_labels(space.free[name]))
        _ends(axes, len(names), f"{100 * low:.2f}", f"{100 * high:.2f}")
        axes.set_xticks(range(len(names) + 1), [*(_short(name, CHARACTERS // (len(names) + 1)) for name in names), "average, %"])
        axes.set_yticks([])
        axes.set_xlim(-0.4, len(names) + 0.4)
        axes.set_ylim(-0.14, 1.14)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return theme.to_svg(figure, "parallel", f"Parallel coordinates of {len(trials)} trials over {', '.join(names)}")


def _ends(axes: Any, place: int, low: str, high: str) -> None:
    for text, height, side in ((low, -0.03, "top"), (high, 1.03, "bottom")):
        axes.text(place, height, text, ha="center", va=side, fontsize=8, color=theme.MUTED)


def _short(name: str, room: int = 16) -> str:
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _height(free: Free, value: float | int | str) -> float:
    """Where a value stands on its axis, 0 to 1."""
    if isinstance(free, ChoiceParameter):
        return free.labels.index(str(value)) / (len(free.labels) - 1)
    low, high, at = float(free.low), float(free.high), float(value)
    if free.log:
        low, high, at = np.log(low), np.log(high), np.log(at)
    return (at - low) / (high - low)


def _labels(free: Free) -> tuple[str, str]:
    if isinstance(free, ChoiceParameter):
        return _short(free.labels[0]), _short(free.labels[-1])
    return f"{free.low:g}", f"{free.high:g}"


def said(params: dict[str, float | int | str], names: Sequence[str]) -> list[str]:
    """A trial's values by name, as a table shows them."""
    return [f"{value:.4g}" if isinstance(value := params.get(name, "–"), float) else str(value) for name in names]


def order(trials: Sequence[Trial]) -> list[Trial]:
    """Best first, then those without a value."""
    return sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
