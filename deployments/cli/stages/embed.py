"""`datacomp embed`: features and scores of a pool."""

from __future__ import annotations

import typer

from deployments.cli import options
from deployments.cli.stages import until


def add_to(app: typer.Typer) -> None:
    app.command("embed", rich_help_panel="Stages")(embed)


def embed(scale: options.Scale = "tiny", pool_seed: until.PoolSeed = 0, json: options.Json = False) -> None:
    """Score the pool: features of image and text, and their cosine, by the scale's scorer.

    Example: datacomp embed --json
    """
    until.run_to("embed", until.spec_of(scale, pool_seed=pool_seed), json=json)
