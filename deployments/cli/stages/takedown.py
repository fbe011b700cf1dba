"""`datacomp pool takedown`: a list of uids and urls, and an answer to each line of it."""

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

List = Annotated[Path, typer.Argument(help="A file with one uid or url a line.")]
SHOWN = 50


def takedown(
    names: List,
    answers: Annotated[Path | None, typer.Option(help="A csv to write: the answer to every line.")] = None,
    json: options.Json = False,
) -> None:
    """Remove samples from every shard set of the store, and mark the subsets, checkpoints and results made with them.

    Every line gets an answer. The exit status is 1 if one of them names nothing that the store knows, or if something could not
    be looked into. A takedown that was interrupted is finished by the same command.

    Example: datacomp pool takedown requests.txt --answers answers.csv
    """
    from datacomp_core.pool.takedown import take_down_list
    from datacomp_core.store import Store

    if not names.is_file():
        raise SpecError(f"{names} is not a file: one uid or url a line is wanted.")
    taken, told = take_down_list(Store.open(settings().store_url), names, answers)
    removed = {address: count for address, count in taken.removed.items() if count}
    if json:
        lost = {"not_found": taken.not_found, "unread": taken.unread}
        listed = told.to_dicts()
        terminal.print_json({"removed": removed, "marked": taken.marked, **lost, "answers": listed})
    else:
        counts = [(address, f"{count:,}") for address, count in removed.items()]
        terminal.table("Removed", ("shard set", "samples"), counts, right=("samples",))
        terminal.table("Made with them: marked with _takedown.json", ("address",), [(address,) for address in taken.marked])
        _show(told, taken.num_lines, taken.not_found)
        for address, reason in taken.unread.items():
            terminal.out.print(f"[yellow]Not looked into: {escape(f'{address} ({reason})')}[/]")
    if taken.not_found or taken.unread:
        raise typer.Exit(1)


def _show(told: pl.DataFrame, num_lines: int, not_found: int) -> None:
    """The answers, those first that found nothing."""
    listed = told.sort("found", maintain_order=True)
    rows = [(str(line), escape(request), answer) for line, request, answer, _ in listed.head(SHOWN).iter_rows()]
    more = f"; {num_lines - SHOWN:,} more with --answers FILE" if num_lines > SHOWN else ""
    terminal.table(f"{num_lines:,} lines, {not_found:,} not found{more}", ("line", "request", "answer"), rows)
