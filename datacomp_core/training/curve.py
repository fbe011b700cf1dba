"""Draws the learning curves as one SVG: loss, logit scale, learning rate, samples/s, waiting, GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from datacomp_core.training.alarms import Row

WIDTH, HEIGHT, GAP, COLUMNS = 300, 130, 20, 3
LEFT, TOP = 8, 30  # room for the title of a panel
MAX_POINTS = 400


class Panel(NamedTuple):
    """One curve: the field of the history's rows, and how its numbers are written."""

    field: str
    title: str
    form: str


PANELS = (
    Panel("loss", "loss", ".3f"),
    Panel("logit_scale", "logit scale", ".1f"),
    Panel("learning_rate", "learning rate", ".1e"),
    Panel("samples_per_second", "samples/s", ",.0f"),
    Panel("waiting", "share of time waiting for data", ".0%"),
    Panel("gpu_gb", "GPU memory, GB", ".1f"),
)


def curves(rows: Sequence[Row], title: str) -> str:
    """An SVG document over the rows of a history; a field that no row has gets no panel."""
    panels = [panel for panel in PANELS if any(panel.field in row for row in rows)]
    lines = -(-len(panels) // COLUMNS)
    wide, high = COLUMNS * (WIDTH + GAP) + GAP, lines * (HEIGHT + GAP) + 2 * GAP
    drawn = [_panel(panel, rows, n) for n, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'font-family="sans-serif" font-size="11" role="img">'
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{GAP}" y="{GAP}" font-size="13" font-weight="bold">{escape(title)}</text>' + "".join(drawn) + "</svg>"
    )


def _panel(panel: Panel, rows: Sequence[Row], number: int) -> str:
    points = [(row["step"], row[panel.field]) for row in rows if panel.field in row]
    points = points[:: -(-len(points) // MAX_POINTS)]
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    left = GAP + number % COLUMNS * (WIDTH + GAP)
    top = 2 * GAP + number // COLUMNS * (HEIGHT + GAP)

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - 2 * LEFT) * (step - first) / ((last - first) or 1)
        y = TOP + (HEIGHT - TOP - LEFT) * (high - value) / ((high - low) or 1)
        return f"{x:.1f},{y:.1f}"

    path = " ".join(place(step, value) for step, value in points)
    told = f"{format(low, panel.form)} to {format(high, panel.form)}, last {format(values[-1], panel.form)}"
    return (
        f'<g transform="translate({left},{top})"><rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>'
        f'<text x="{LEFT}" y="13" font-weight="bold">{escape(panel.title)}</text>'
        f'<text x="{WIDTH - LEFT}" y="13" text-anchor="end" fill="#555">{told}</text>'
        f'<polyline points="{path}" fill="none" stroke="#1f77b4" stroke-width="1.5"/></g>'
    )
