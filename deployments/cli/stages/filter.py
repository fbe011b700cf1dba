"""`datacomp filter`: a subset of a pool, or of plain metadata parquets without a store, a server or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import options, terminal
from deployments.cli.stages import until

if TYPE_CHECKING:
    from datacomp_core.filters.report import Explanation


def add_to(app: typer.Typer) -> None:
    app.command("filter", rich_help_panel="Stages")(filter_)


def filter_(
    recipe: until.Recipe = until.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: until.PoolSeed = 0,
    metadata: Annotated[str | None, typer.Option(help="A folder or bucket of metadata parquets, in place of a pool.")] = None,
    scores: Annotated[
        list[str] | None, typer.Option(help="Folders of score parquets beside --metadata; repeat for several.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="With --metadata: the subset file to write.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --metadata: write nothing, only tell what would be kept.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    json: options.Json = False,
) -> None:
    """Choose a subset of a pool, or of a folder of metadata parquets, and tell what was dropped and why.

    Examples:

      datacomp filter --list

      datacomp filter --recipe clip_score_tiny

      datacomp filter --metadata small/metadata --recipe clip_score:score=l14,fraction=0.3 --out subset.npy

      datacomp filter --metadata s3://bucket/metadata --recipe basic_filter --explain
    """
    if list_:
        _list_recipes(json=json)
    elif metadata is None:
        until.run_to("filter", until.spec_of(scale, recipe, pool_seed=pool_seed), json=json)
    elif out is None and not explain:
        raise SpecError("Say where the subset file goes with --out, or ask for a dry run with --explain.")
    else:
        _filter_folder(metadata, recipe, None if explain else out, scores or [], json=json)


def _list_recipes(*, json: bool) -> None:
    from datacomp_core.filters.baselines import RECIPES

    if json:
        terminal.print_json(
            [{"name": row.name, "description": row.description, "source": row.source} for row in RECIPES.values()]
        )
    else:
        terminal.table(
            "Recipes", ("name", "what it keeps", "source"), [(r.name, r.description, r.source) for r in RECIPES.values()]
        )


def _filter_folder(metadata: str, recipe: str, out: str | None, scores: list[str], *, json: bool) -> None:
    """A subset file from a folder or bucket of metadata parquets; without `out` a dry run."""
    from datacomp_core.filters.select import load_recipe, select

    folder, name = until.place(out) if out else (None, "")
    with terminal.shown_progress("filter", quiet=json) as progress:
        chosen = select(
            load_recipe(recipe),
            Folder(metadata),
            [Folder(url) for url in scores],
            out=folder,
            name=name,
            write="subset",
            workers=settings().num_workers,
            progress=progress,
        )
    told = chosen.explanation
    if json:
        terminal.print_json({"out": out, "num_samples": chosen.num_samples, "num_unique": chosen.num_unique, **told.model_dump()})
        return
    _tell(told)
    terminal.out.print(
        f"{chosen.num_samples:,} samples, {chosen.num_unique:,} unique" + (f": [bold]{out}[/]" if out else " (dry run)")
    )


def _tell(told: Explanation) -> None:
    """What each step of a filter kept, and the first reason for which each row was dropped."""
    rows = [
        (step.title, "" if step.alone is None else f"{step.alone:,}", f"{step.asked:,}", f"{step.kept:,}") for step in told.steps
    ]
    columns = ("filter", "keeps alone", "asked", "kept")
    terminal.table(f"{told.recipe}: {told.kept:,} of {told.rows:,} rows kept", columns, rows, right=columns[1:])
    dropped = [(reason, f"{count:,}") for reason, count in told.dropped.items()]
    terminal.table("Dropped, by first reason", ("reason", "rows"), dropped, right=("rows",))
