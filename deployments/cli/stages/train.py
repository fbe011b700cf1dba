"""`datacomp train`: CLIP on a subset, by the fixed recipe of a scale."""

from __future__ import annotations

import typer

from deployments.cli import options
from deployments.cli.stages import until


def add_to(app: typer.Typer) -> None:
    app.command("train", rich_help_panel="Stages")(train)


def train(
    recipe: until.Recipe = until.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: until.Seed = 0,
    pool_seed: until.PoolSeed = 0,
    json: options.Json = False,
) -> None:
    """Train CLIP on a subset by the scale's fixed recipe (open_clip_train under torchrun).

    Example: datacomp train --recipe no_filter --seed 1
    """
    until.run_to("train", until.spec_of(scale, recipe, seed=seed, pool_seed=pool_seed), json=json)
