"""The page's plots: the ranking with its noise, the score histogram with its cut, and the learning curves."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from datacomp_core.leaderboard.board.composition import Composition
from datacomp_core.leaderboard.board.rows import BoardRow
from datacomp_core.leaderboard.board.scaling import ScalingFit
from datacomp_core.leaderboard.site import theme
from datacomp_core.scales import SCALES

WIDTH = 5.5  # inches of 72 px: narrow, so that text stays readable on a phone


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` pairs have a score in `edges[i]..edges[i + 1]`, `kept[i]` of them are kept; `cut` is the cutoff, or None."""

    column: str
    edges: list[float]
    counts: list[int]
    kept: list[int]
    cut: float | None = None


@dataclass(frozen=True)
class Curve:
    """The loss of one training run by step."""

    method: str
    seed: int
    steps: list[int] = field(default_factory=list[int])
    losses: list[float] = field(default_factory=list[float])


@contextmanager
def drawing(height: float) -> Generator[tuple[Any, Any]]:
    """A figure and its axes; everything drawn inside the block has the page's style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(theme.STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes: Any = figure.add_subplot()
        axes.tick_params(length=0)
        yield figure, axes


def ranking(rows: Sequence[BoardRow], colors: Mapping[str, int], baseline: BoardRow | None) -> str:
    """One line a method, best on top: every seed as a dot, the mean as a bar's end, the unfiltered pool as a line."""
    shown = [row for row in rows if row.average is not None][:14]
    with drawing(0.75 + 0.46 * len(shown)) as (figure, axes):
        for place, row in enumerate(shown):
            assert row.average is not None
            color, mean = theme.series(colors[row.key]), 100 * row.average.mean
            axes.plot([0, mean], [place, place], color=color, linewidth=9, alpha=0.28, solid_capstyle="butt")
            axes.plot([mean, mean], [place - 0.3, place + 0.3], color=color, linewidth=3)
            values = [100 * value for value in row.average.values]
            if len(values) > 1:
                axes.scatter(values, [place] * len(values), s=22, color=color, edgecolors=theme.SURFACE, linewidths=0.8, zorder=3)
            axes.text(max([mean, *values]) + 0.012 * _top(shown), place, f"  {mean:.1f}", va="center", weight="bold", size=11)
        if baseline is not None and baseline.average is not None:
            axes.axvline(100 * baseline.average.mean, color=theme.MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(shown)), [_called(row) for row in shown], color=theme.INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1.14 * _top(shown))
        axes.set_xlabel("Average over all tasks, %")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        spoken = "; ".join(f"{_called(row)} {100 * row.average.mean:.1f} %" for row in shown if row.average)
        return theme.to_svg(figure, "ranking", f"Average score by method: {spoken}")


def _called(row: BoardRow) -> str:
    return f"{row.method} (not ranked)" if row.breaches + row.unverified else row.method


def _top(rows: Sequence[BoardRow]) -> float:
    return max([100 * value for row in rows if row.average for value in (row.average.mean, *row.average.values)], default=1.0)


def histogram(data: Histogram, key: str) -> str:
    """Scores of the pool in grey, what is kept of them in colour, the cut as a line with its value."""
    with drawing(2.5) as (figure, axes):
        _draw_histogram(axes, data, HistogramColors(theme.SURFACE, theme.series(0), theme.series(1), theme.INK))
        axes.grid(axis="y")
        cut = "" if data.cut is None else f", cut at {data.cut:.3f}"
        return theme.to_svg(figure, key, f"Histogram of {data.column}: {sum(data.kept):,} of {sum(data.counts):,} kept{cut}")


def histogram_png(data: Histogram) -> bytes:
    """The same drawing as a PNG, for places that show no page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    _draw_histogram(figure.add_subplot(), data, HistogramColors("white", "#c4c4cc", "#3a6ea5", "#aa3333"))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


class HistogramColors(NamedTuple):
    """Colours of a histogram's edges, of dropped and kept rows, and of the cut."""

    edge: str
    dropped: str
    kept: str
    cut: str


def _draw_histogram(axes: Any, data: Histogram, colors: HistogramColors) -> None:
    widths = [high - low for low, high in zip(data.edges[:-1], data.edges[1:], strict=True)]
    looks = {"align": "edge", "edgecolor": colors.edge, "linewidth": 0.4}
    axes.bar(data.edges[:-1], data.counts, widths, color=colors.dropped, alpha=0.55, label="dropped", **looks)
    axes.bar(data.edges[:-1], data.kept, widths, color=colors.kept, label="kept", **looks)
    if data.cut is not None:
        axes.axvline(data.cut, color=colors.cut, linewidth=1.2)
        axes.text(data.cut, max(data.counts) * 1.02, f" cut {data.cut:.3f}", va="bottom", size=10)
    axes.set_xlabel(data.column)
    axes.set_ylabel("pairs")
    axes.margins(x=0.01, y=0.16)
    axes.legend(frameon=False, loc="upper left", handlelength=1, handleheight=1, fontsize=10)


def curves(runs: Sequence[Curve], colors: Mapping[str, int]) -> str:
    """Loss by optimizer step: one thin line a seed, one colour a method, its name at the end of the line."""
    with drawing(3.1) as (figure, axes):
        ends: dict[str, tuple[float, float]] = {}
        for run in runs:
            if not run.steps:
                continue
            axes.plot(run.steps, run.losses, color=theme.series(colors[run.method]), linewidth=1.5, alpha=0.85)
            ends.setdefault(run.method, (run.steps[-1], run.losses[-1]))
        for method, (step, height) in _apart(ends, axes).items():
            axes.text(step, height, f"  {method}", color=theme.series(colors[method]), va="center", size=10)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("contrastive loss")
        right = max((step for step, _ in ends.values()), default=1)
        axes.set_xlim(0, right * 1.3)
        axes.grid(axis="y")
        return theme.to_svg(figure, "curves", f"Training loss by step for {', '.join(ends)}")


def _apart(ends: dict[str, tuple[float, float]], axes: Any) -> dict[str, tuple[float, float]]:
    """The ends of the curves with room for a line of text between their heights."""
    low, high = axes.get_ylim()
    gap, placed, last = (high - low) * 0.065, dict[str, tuple[float, float]](), None
    for method, (step, height) in sorted(ends.items(), key=lambda item: item[1][1]):
        last = height if last is None else max(height, last + gap)
        placed[method] = (step, last)
    return placed


def distribution(made: Composition, measure: str, names: Sequence[str], key: str) -> str:
    """One measure of several groups as outlines over the pool in grey, each scaled to the share of its own rows."""
    edges = made.edges[measure]
    with drawing(2.5) as (figure, axes):
        for place, group in enumerate(group for group in made.groups if group.name in (made.groups[0].name, *names)):
            counts = group.histograms.get(measure)
            if not counts or not sum(counts):
                continue
            shares = [100 * count / sum(counts) for count in counts]
            fill = {"fill": True, "alpha": 0.35} if place == 0 else {"linewidth": 2}
            axes.stairs(shares, edges, color=theme.series(place), label=group.name, **fill)
        axes.set_xlabel(measure)
        axes.set_ylabel("% of its rows")
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=9.5, handlelength=1.2)
        return theme.to_svg(figure, key, f"Distribution of {measure} for {', '.join([made.groups[0].name, *names])}")


def scaling(fits: Sequence[ScalingFit]) -> str:
    """Averages over samples seen, a line a method, with the prediction for the next scale and its interval."""
    with drawing(3.6) as (figure, axes):
        for place, fit in enumerate(fits[: theme.NUM_SERIES]):
            color, seen = theme.series(place), [point.samples_seen for point in fit.points]
            axes.plot(seen, [100 * point.average for point in fit.points], "o-", color=color, label=fit.method, markersize=4)
            if fit.predicted is not None:
                at, middle = SCALES[fit.next_scale].train_num_samples, 100 * fit.predicted
                axes.plot([seen[-1], at], [100 * fit.points[-1].average, middle], ":", color=color)
                if fit.interval is not None:
                    axes.plot([at, at], [100 * fit.interval.low, 100 * fit.interval.high], color=color, linewidth=4, alpha=0.3)
        axes.set_xscale("log")
        axes.set_xlabel("samples seen")
        axes.set_ylabel("average, %")
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=8.5, handlelength=1.2)
        return theme.to_svg(figure, "scaling", f"Average by samples seen for {', '.join(fit.method for fit in fits)}")
