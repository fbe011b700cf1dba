"""`datacomp leaderboard`, `report` and `show`: results and their origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.cli import options, submission, terminal

if TYPE_CHECKING:
    from datacomp_core.leaderboard.board.rows import Board, BoardRow, BoardScore


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, callback=leaderboard, rich_markup_mode="rich")
    group.command()(submission.serve)
    group.command()(submission.token)
    app.add_typer(group, name="leaderboard", rich_help_panel="Results")
    app.command(rich_help_panel="Results")(report)
    app.command(rich_help_panel="Results")(show)


def leaderboard(
    context: typer.Context, scale: options.Scale = "tiny", track: options.Track = "", json: options.Json = False
) -> None:
    """Show the leaderboard of a scale, one table per track and one row per method, with mean and spread over its seeds.

    Examples:

      datacomp leaderboard --scale small --json

      datacomp leaderboard --track byod
    """
    if context.invoked_subcommand is None:
        show_board(scale, track=track, json=json)


def report(
    scale: options.Scale = "tiny",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the page. Default: report/ in the home folder.")] = None,
    json: options.Json = False,
) -> None:
    """Write a static site: the board with pictures and curves, a page for each method, comparison and pool, and the scaling.

    Every page is one file and needs no network.

    Example: datacomp report --out ~/public
    """
    from datacomp_core.leaderboard.site.pages import write_site

    page = write_site(Store.open(settings().store_url), out or settings().home / "report", scale=_known(scale))
    if json:
        terminal.print_json({"page": str(page.resolve())})
    else:
        terminal.out.print(f"Page: [bold]{page.resolve().as_uri()}[/]")


def show(
    what: Annotated[str, typer.Argument(help="An address, or the first digits of a fingerprint.")],
    json: options.Json = False,
) -> None:
    """Show an artifact and everything it was made from: score, checkpoint, shards, subset, scores, pool.

    Example: datacomp show entries/tiny/clip_score_tiny-seed0--0123456789ab
    """
    from datacomp_core.leaderboard.entries.provenance import find, walk
    from datacomp_core.store.record import describe

    store = Store.open(settings().store_url)
    record = find(store, what)
    chain = walk(store, record)
    if json:
        terminal.print_json({"record": describe(record), "chain": [link.model_dump() for link in chain]})
        return
    terminal.out.print_json(data=describe(record))
    rows = [("  " * link.depth + link.kind, link.address, link.fingerprint[:12], f"{link.seconds:,.1f} s") for link in chain]
    terminal.table("Came from", ("step", "address", "fingerprint", "took"), rows, right=("took",))


def show_board(scale: str, *, track: str = "", json: bool) -> None:
    """The board of a scale: a table for each track that has results, or JSON."""
    from datacomp_core.errors import unknown
    from datacomp_core.leaderboard.board.board import board
    from datacomp_core.leaderboard.entries.placement import TRACKS

    if track not in ("", *TRACKS):
        raise unknown("track", track, TRACKS)
    made = board(Store.open(settings().store_url), _known(scale))
    if json:
        terminal.print_json((made.of_track(track) if track else made).model_dump(mode="json"))
        return
    for name in [track] if track else made.tracks() or ["filtering"]:
        _show_track(scale, name, made.of_track(name))


def _show_track(scale: str, track: str, made: Board) -> None:
    from datacomp_core.leaderboard.board.findings import finding, not_helping

    # The page and --json have the tasks.
    columns = [column for column in made.columns if column.level not in ("task", "own task")]
    titles = ["#", "method", "seeds", "size", "inputs", *[column.title for column in columns], "vs no filter"]
    rows = [
        [
            row.place,
            row.method + (" [dim](unverified)[/]" if row.unverified else "" if row.our_recipe else " [dim](not our recipe)[/]"),
            str(row.num_seeds),
            _size(row),
            row.input_class,
            *[_cell(row.scores.get(c.key)) for c in columns],
            _verdict(row),
        ]
        for row in made.rows
    ]
    terminal.table(
        f"Leaderboard, {scale}, {track} track ({made.suite})",
        titles,
        rows,
        right=("#", "seeds", "size", *[c.title for c in columns]),
    )
    told = finding(made)
    for line in (f"[bold]{told.title}[/]", *told.lead, *not_helping(made)):
        terminal.out.print(line)
    for row in made.rows:
        if reasons := [*row.unverified, *row.breaches]:
            terminal.out.print(f"{row.method} is not ranked. {' '.join(reasons)}", markup=False)


def _known(scale: str) -> str:
    from datacomp_core.scales import scale as known_scale

    return known_scale(scale).name


def _size(row: BoardRow) -> str:
    share, said = row.coverage
    came = f" ({share:.1%} arrived{said})" if share is not None and share < 0.9995 else ""
    return f"{row.size:,.0f}{came}" if row.size else ""


def _cell(score: BoardScore | None) -> str:
    if score is None:
        return ""
    spread = f" ±{100 * score.std:.1f}" if score.std is not None else ""
    return f"{100 * score.mean:.1f}{spread}"


def _verdict(row: BoardRow) -> Any:
    if row.kind == "reference":
        return "[dim]paper[/]"
    if row.baseline is None:
        return ""
    colour = {"better": "green", "worse": "red"}.get(row.baseline.outcome, "dim")
    return f"[{colour}]{row.baseline.outcome}[/]"
