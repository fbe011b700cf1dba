"""`datacomp pool`: the candidates and their images."""

from __future__ import annotations

import typer

from deployments.cli import options
from deployments.cli.stages import until


def add_to(app: typer.Typer) -> None:
    app.command("pool", rich_help_panel="Stages")(pool)


def pool(scale: options.Scale = "tiny", pool_seed: until.PoolSeed = 0, json: options.Json = False) -> None:
    """Build the pool and download its images, with a ledger and an index.

    Example: datacomp pool --pool-seed 1
    """
    until.run_to("pool", until.spec_of(scale, pool_seed=pool_seed), json=json)
