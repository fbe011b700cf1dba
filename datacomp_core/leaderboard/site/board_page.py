"""The board as one static page: a single file without network, readable in light and dark, on a desk and on a phone."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacomp_core.input_classes import TITLES
from datacomp_core.leaderboard.board import findings
from datacomp_core.leaderboard.board.board import entries, images_in, make_board
from datacomp_core.leaderboard.board.own_tasks import own_in
from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.site import figures, number_format, page_data
from datacomp_core.leaderboard.site.theme import NUM_SERIES
from datacomp_core.store import Folder, Store

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


class _Track:
    """The runs of one track, and the run without a filter that they are compared with."""

    def __init__(self, name: str, board: Board) -> None:
        self.name, self.runs, self.plain = name, board.runs(), findings.baseline(board)
        self.largest = findings.largest_change(board)


def write_page(store: Store, out_dir: Path, scale: str) -> Path:
    """Write the page of a scale to `<out_dir>/<scale>.html` (at once, over an older one) and return its path."""
    return put(out_dir / f"{scale}.html", page(store, scale, out_dir))


def put(target: Path, text: str) -> Path:
    """Write a page at once, over an older one."""
    folder = Folder(target.parent)
    folder.sweep_left_behind(target.name)
    folder.write(target.name, text.encode())
    return target


def page(store: Store, scale: str, out_dir: Path | None = None, *, found: dict[str, Entry] | None = None) -> str:
    """The page's HTML, with links to the pages of its methods that are in `out_dir`; of all entries, or of those in `found`.

    The same store gives the same page, but for the line that says when it was made.
    """
    found = dict(entries(store, scale)) if found is None else found
    board = make_board(scale, found.items(), images_in(store), own_in(store))
    names = {row.key: f"{scale}/experiment-{row.key}.html" for row in board.runs()}
    subpages = {key: name for key, name in names.items() if out_dir is not None and (out_dir / name).exists()}
    colors = _colors(board)
    losses = [curve for curve in page_data.curves(store, board, found) if curve.steps]
    chosen = page_data.selections(store, board, found)
    return (
        environment()
        .get_template("page.html")
        .render(
            board=board,
            subpages=subpages,
            finding=findings.finding(board),
            not_helping=findings.not_helping(board),
            best=findings.best(board),
            plain=findings.baseline(board),
            outcome=findings.task_outcome,
            by_track=[_Track(name, board.of_track(name)) for name in board.tracks()],
            colors=colors,
            input_titles=TITLES,
            groups=[column for column in board.columns if column.level in ("group", "own")],
            tasks=[column for column in board.columns if column.level in ("task", "own task")],
            ranking=figures.ranking(board.leading().runs(), colors, findings.baseline(board)) if board.runs() else "",
            curves=figures.curves(*_named(losses, board, colors)) if losses else "",
            selections=chosen,
            histograms={
                made.key: figures.histogram(made.histogram, f"hist{number}")
                for number, made in enumerate(chosen)
                if made.histogram is not None
            },
            download=page_data.download(store, found),
            provenance=_provenance(board, found),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _colors(board: Board) -> dict[str, int]:
    """A colour a method: grey for the unfiltered pool, the accent for the best, the others in order."""
    plain = [findings.baseline(board.of_track(track)) for track in board.tracks()]
    colors, number = dict[str, int](), 1
    for row in board.runs():
        if row.key in {one.key for one in plain if one is not None}:
            colors[row.key] = 0
        else:
            colors[row.key], number = number, number % (NUM_SERIES - 1) + 1
    return colors


def _named(losses: list[page_data.Curve], board: Board, colors: dict[str, int]) -> tuple[list[page_data.Curve], dict[str, int]]:
    """Curves and colours by the method's name instead of its key."""
    several = len(board.tracks()) > 1
    names = {row.key: f"{row.method} ({row.track})" if several and row.track == "byod" else row.method for row in board.runs()}
    renamed = [page_data.Curve(names[c.method], c.seed, c.steps, c.losses) for c in losses]
    return renamed, {names[key]: color for key, color in colors.items()}


def _provenance(board: Board, found: dict[str, Entry]) -> list[tuple[BoardRow, list[tuple[str, Entry]]]]:
    return [(row, [(address, found[address]) for address in row.entries]) for row in board.rows if row.kind == "run"]


@cache
def environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "percent": findings.percent,
        "points": findings.points,
        "span": findings.span,
        "duration": number_format.duration,
        "amount": number_format.amount,
        "volume": number_format.volume,
    }
    environment.filters.update(filters)
    return environment
