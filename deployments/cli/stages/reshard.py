"""`datacomp reshard`: the chosen samples as shards of their own, of a pool or of a plain folder of tars."""

from __future__ import annotations

from typing import Annotated

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import options, terminal
from deployments.cli.stages import until


def add_to(app: typer.Typer) -> None:
    app.command("reshard", rich_help_panel="Stages")(reshard)


def reshard(
    recipe: until.Recipe = until.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: until.PoolSeed = 0,
    shards: Annotated[
        str | None, typer.Option(help="A folder or bucket of webdataset tars, in place of a pool's images.")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="With --shards: the subset file.")] = None,
    out: Annotated[str | None, typer.Option(help="With --shards: folder or bucket for the new shards.")] = None,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="With --shards: samples of a new shard, at most.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="With --shards: seed of the global shuffle.")] = 0,
    tolerated_missing: Annotated[float, typer.Option(min=0, max=1, help="With --shards: share that may be missing.")] = 0.0,
    json: options.Json = False,
) -> None:
    """Lay out the chosen samples as shards of their own, in a global random order, reading only what was chosen.

    Examples:

      datacomp reshard --recipe clip_score_tiny

      datacomp reshard --shards small/shards --subset subset.npy --out small/clip_score
    """
    if shards is None:
        until.run_to("reshard", until.spec_of(scale, recipe, pool_seed=pool_seed), json=json)
    elif subset is None or out is None:
        raise SpecError("Resharding a folder needs --shards, --subset and --out together.")
    else:
        _reshard_folder(
            shards, subset, out, samples_per_shard=samples_per_shard, seed=seed, tolerated_missing=tolerated_missing, json=json
        )


def _reshard_folder(
    shards: str, subset: str, out: str, *, samples_per_shard: int, seed: int, tolerated_missing: float, json: bool
) -> None:
    """The chosen samples of a folder of tars as shards of their own."""
    from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders

    spec = ReshardSpec(samples_per_shard=samples_per_shard, seed=seed, tolerated_missing=tolerated_missing)
    with terminal.shown_progress("reshard", quiet=json) as progress:
        account = reshard_folders(Folder(shards), subset, Folder(out), spec, workers=settings().num_workers, progress=progress)
    counts = account.counts()
    if json:
        terminal.print_json({"out": out, **counts})
        return
    terminal.table(
        f"Resharded into {out}", ("what", "samples"), [(name, f"{n:,}") for name, n in counts.items()], right=("samples",)
    )
