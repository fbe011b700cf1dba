"""`datacomp pool takedown`: removes listed uids and urls and answers every line of the list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal

if TYPE_CHECKING:
    import polars as pl

List = Annotated[Path, typer.Argument(help="A file with one uid or url per line.")]
SHOWN = 50


def takedown(
    names: List,
    answers: Annotated[Path | None, typer.Option(help="CSV file for the answer to every line.")] = None,
    json: options.Json = False,
) -> None:
    """Remove samples from every shard set of the store, and mark the subsets, checkpoints and results made with them.

    Every line gets an answer. The exit status is 1 if a line matches nothing in the store, or if something could not be
    checked. Run the same command again to finish an interrupted takedown.

    Example: datacomp pool takedown requests.txt --answers answers.csv
    """
    from datacomp_core.pool.takedown import take_down_list
    from datacomp_core.store import Store

    if not names.is_file():
        raise SpecError(f"{names} is not a file: give a file with one uid or url per line.")
    taken, told = take_down_list(Store.open(settings().store_url), names, answers)
    removed = {address: count for address, count in taken.removed.items() if count}
    if json:
        lost = {"not_found": taken.not_found, "unread": taken.unread}
        listed = told.to_dicts()
        terminal.print_json({"removed": removed, "marked": taken.marked, **lost, "answers": listed})
    else:
        counts = [(address, f"{count:,}") for address, count in removed.items()]
        terminal.table("Removed", ("shard set", "samples"), counts, right=("samples",))
        terminal.table(
            "Made with these samples: marked with _takedown.json", ("address",), [(address,) for address in taken.marked]
        )
        _show(told, taken.num_lines, taken.not_found)
        for address, reason in taken.unread.items():
            terminal.out.print(f"[yellow]Not checked: {escape(f'{address} ({reason})')}[/]")
    if taken.not_found or taken.unread:
        raise typer.Exit(1)


def _show(told: pl.DataFrame, num_lines: int, not_found: int) -> None:
    """Show the answers, with lines that found nothing first."""
    listed = told.sort("found", maintain_order=True)
    rows = [(str(line), escape(request), answer) for line, request, answer, _ in listed.head(SHOWN).iter_rows()]
    more = f"; {num_lines - SHOWN:,} more with --answers FILE" if num_lines > SHOWN else ""
    terminal.table(f"{num_lines:,} lines, {not_found:,} not found{more}", ("line", "request", "answer"), rows)
