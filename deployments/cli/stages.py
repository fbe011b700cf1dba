"""`datacomp pool`, `embed`, `filter`, `reshard`, `train`, `evaluate`: an experiment up to a stage, or one on plain folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.errors import SpecError
from deployments.cli import options, plain, terminal
from deployments.cli.interrupt import ends_at_once
from deployments.local_server import prefect_api, prepare_environment

if TYPE_CHECKING:
    from flows.parameters import ExperimentSpec
    from flows.stage import Stage

Recipe = Annotated[str, typer.Option("--recipe", "-r", help="Filter: a name (`datacomp filter --list`) or a YAML file.")]
Seed = Annotated[int, typer.Option("--seed", "-s", min=0, help="Training seed.")]
PoolSeed = Annotated[int, typer.Option("--pool-seed", min=0, help="Seed of the embedded pool.")]
DEFAULT_RECIPE = "clip_score_tiny"


def add_to(app: typer.Typer) -> None:
    for command in (pool, embed, filter_, reshard, train, evaluate):
        app.command(command.__name__.rstrip("_"), rich_help_panel="Stages")(command)


def pool(scale: options.Scale = "tiny", pool_seed: PoolSeed = 0, json: options.Json = False) -> None:
    """Build the pool and download its images, with a ledger and an index.

    Example: datacomp pool --pool-seed 1
    """
    _run_to("pool", _spec(scale, DEFAULT_RECIPE, 0, pool_seed), json=json)


def embed(scale: options.Scale = "tiny", pool_seed: PoolSeed = 0, json: options.Json = False) -> None:
    """Score the pool: features of image and text, and their cosine, by the scale's scorer.

    Example: datacomp embed --json
    """
    _run_to("embed", _spec(scale, DEFAULT_RECIPE, 0, pool_seed), json=json)


def filter_(
    recipe: Recipe = DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: PoolSeed = 0,
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
        _run_to("filter", _spec(scale, recipe, 0, pool_seed), json=json)
    elif out is None and not explain:
        raise SpecError("Say where the subset file goes with --out, or ask for a dry run with --explain.")
    else:
        plain.filter_folder(metadata, recipe, None if explain else out, scores or [], json=json)


def reshard(
    recipe: Recipe = DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    pool_seed: PoolSeed = 0,
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
        _run_to("reshard", _spec(scale, recipe, 0, pool_seed), json=json)
    elif subset is None or out is None:
        raise SpecError("Resharding a folder needs --shards, --subset and --out together.")
    else:
        plain.reshard_folder(
            shards, subset, out, samples_per_shard=samples_per_shard, seed=seed, tolerated_missing=tolerated_missing, json=json
        )


def train(
    recipe: Recipe = DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: Seed = 0,
    pool_seed: PoolSeed = 0,
    json: options.Json = False,
) -> None:
    """Train CLIP on a subset by the scale's fixed recipe (open_clip_train under torchrun).

    Example: datacomp train --recipe no_filter --seed 1
    """
    _run_to("train", _spec(scale, recipe, seed, pool_seed), json=json)


def evaluate(
    recipe: Recipe = DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: Seed = 0,
    pool_seed: PoolSeed = 0,
    model: Annotated[str | None, typer.Option(help="open_clip model name, to evaluate a file in place of an experiment.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="With --model: open_clip checkpoint or safetensors.")] = None,
    data: Annotated[str | None, typer.Option(help="With --model: folder or bucket of test sets (wds_*_test).")] = None,
    out: Annotated[str | None, typer.Option(help="With --model: folder for the report.")] = None,
    suite: Annotated[str, typer.Option(help="With --model: suite. Default: the one whose sets lie in --data.")] = "",
    tasks: Annotated[list[str] | None, typer.Option(help="With --model: only this task; repeat for several.")] = None,
    json: options.Json = False,
) -> None:
    """Score a model zero-shot: one of an experiment, or a checkpoint file on a folder of test sets.

    Examples:

      datacomp evaluate --recipe clip_score_tiny --seed 0

      datacomp evaluate --model ViT-B-32 --checkpoint epoch_5.pt --data evalsets --out results
    """
    if model is None:
        _run_to("evaluate", _spec(scale, recipe, seed, pool_seed), json=json)
    elif data is None or out is None:
        raise SpecError(
            "Evaluating a file needs --model, --data and --out together (and --checkpoint, unless weights are random)."
        )
    else:
        plain.evaluate_folder(model, checkpoint, data, out, suite, tasks or [], json=json)


def _spec(scale: str, recipe: str, seed: int, pool_seed: int) -> ExperimentSpec:
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from flows.parameters import ExperimentSpec

    return ExperimentSpec.model_validate({"scale": scale, "recipe": recipe, "seed": seed, "pool_seed": pool_seed})


def _run_to(until: Stage, spec: ExperimentSpec, *, json: bool) -> None:
    """Run the chain up to a stage, if it is not built, and show what it made."""
    from flows.chain import STAGES, plan
    from tasks.running import store

    steps = plan(lambda call: STAGES[until](call, spec), store())
    made: Any = steps[-1].artifact
    if all(step.is_built for step in steps):
        terminal.notes.print(f"all {len(steps)} steps are built")
    else:
        with prefect_api(), terminal.shown_steps(quiet=json), ends_at_once():
            from flows.stage import stage

            made = stage(spec, until)
    if json:
        terminal.print_json(made.model_dump(mode="json"))
        return
    rows = [(name, str(value)) for name, value in made.model_dump(exclude={"counts", "scale", "content"}).items()]
    terminal.table(f"{made.kind} {made.name}", ("what", "value"), rows)
    if made.counts:
        terminal.table("Counts", ("what", "number"), [(n, f"{c:,}") for n, c in made.counts.items()], right=("number",))
    terminal.out.print(f"Files: [bold]{store().folder(made)}[/]")


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
