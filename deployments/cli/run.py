"""`datacomp run` and `demo`: plan and run whole experiments; finished steps are reused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from datacomp_core.settings import settings
from deployments.cli import options, planning, terminal
from deployments.cli.interrupt import exits_at_interrupt
from deployments.cli.sweeps import captions_of, encoders_of, mix_of, sweep_of, tasks_of, tell_of_source
from deployments.local_server import prefect_api

if TYPE_CHECKING:
    from datacomp_core.store import PlannedStep, Store
    from flows.parameters import SweepSpec

DEMO_RECIPES = ("no_filter", "random_30", "basic_tiny", "clip_score_tiny", "basic_and_clip_tiny")


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Experiments")(run)
    app.command(rich_help_panel="Experiments")(demo)


def run(
    scale: options.Scale = "tiny",
    recipe: options.Recipes = None,
    subset: options.Subsets = None,
    name: options.Name = "",
    seed: options.Seeds = None,
    pool_seed: options.PoolSeeds = None,
    pool: options.Pool = "",
    shards: options.Images = "",
    evalsets: options.Evalsets = "",
    add_tasks: options.AddTasks = None,
    task_data: options.TaskData = "",
    open_networks: options.OpenNetworks = "",
    embed: options.Embed = None,
    made_from: options.MadeFrom = "",
    captions: options.Captions = "",
    mix: options.Mix = None,
    decoding: options.Decoding = "full",
    rates: planning.Rates = None,
    budget: planning.Budget = None,
    json: options.Json = False,
) -> None:
    """Run the whole chain for the given recipes and seeds, and show the leaderboard.

    Examples:

      datacomp run --recipe clip_score_tiny

      datacomp run -r no_filter -r clip_score_tiny -s 0 -s 1 -s 2

      datacomp run --scale small --subset my.npy --name "My filter"

      datacomp run -r my_filter.yaml -r my_filter.py --json

      datacomp run --scale small -r clip_score:score=l14,fraction=0.3 --budget 100

      datacomp run --scale small -r clip_score --mix cc12m_and_pool:cc12m=shards/ADDRESS
    """
    where = {"pool": pool, "shards": shards, "evalsets": evalsets, "open_networks": open_networks, "made_from": made_from}
    where["decoding"] = decoding
    named = {"recipes": recipe, "subsets": subset, "name": name}
    given = {**encoders_of(embed), **captions_of(captions), **mix_of(mix), **tasks_of(add_tasks, task_data)}
    spec = sweep_of(scale, **named, seeds=seed, pool_seeds=pool_seed, **where, **given)
    if budget is not None:
        from datacomp_core.leaderboard.planning.estimate import require_budget

        require_budget(planning.estimated_plan(spec, rates)[1], budget)
    status = execute(spec, quiet=json)
    show_result(spec.scale, json=json)
    raise typer.Exit(status)


def demo(seeds: int = typer.Option(1, "--seeds", min=1, help="Number of training seeds; 3 shows the spread.")) -> None:
    """Run all of DataComp at `tiny` scale on this machine, with real images, in minutes. The demo downloads a pool of
    image-text pairs from a local web server, scores it with a small CLIP and filters it in five ways. It trains CLIP on each
    subset with the same recipe, evaluates it zero-shot, and shows a leaderboard.
    """
    began = time.monotonic()
    spec = sweep_of("tiny", recipes=DEMO_RECIPES, seeds=range(seeds))
    status = execute(spec, quiet=False)
    show_result("tiny", json=False)
    terminal.out.print(f"[dim]{time.monotonic() - began:,.0f} s in total. Store: {settings().store_url}[/]")
    terminal.out.print(
        "Look at the runs in the Prefect UI: [bold]make ui[/]   See the steps behind a number: [bold]datacomp show ADDRESS[/]"
    )
    raise typer.Exit(status)


def planned(spec: SweepSpec) -> tuple[Store, list[PlannedStep[Any]]]:
    """Return the store and every step of a sweep in it."""
    from flows.chain import experiments
    from flows.chain import plan as plan_chain
    from tasks.run_step import store

    return store(), plan_chain(lambda call: experiments(call, spec.experiments()), store())


def execute(spec: SweepSpec, *, quiet: bool) -> int:
    """Plan, print what is missing, and build it through Prefect. If nothing is missing, no server is started."""
    console = terminal.notes if quiet else terminal.out
    tell_of_source(spec.pool)
    steps = planned(spec)[1]
    missing = [step for step in steps if not step.is_built]
    console.print(f"[bold]{len(steps)} steps: {len(steps) - len(missing)} built, {len(missing)} to build[/]")
    for step in steps:
        if step.is_built:
            console.print(f"[cyan]= reused[/] {step.kind:<11} {step.name}")
    if not missing:
        with terminal.shown_steps(quiet=quiet):
            _publish(spec.scale)
        return 0
    console.print("[dim]starting Prefect …[/]")
    with prefect_api() as api:
        console.print(f"Prefect UI while this runs: [bold]{api.removesuffix('/api')}[/]")
        from flows.sweep import sweep

        with terminal.shown_steps(quiet=quiet), exits_at_interrupt():
            sweep(spec)
    return 0


def _publish(scale: str) -> None:
    from tasks.board import publish_board

    publish_board.fn(scale)


def show_result(scale: str, *, json: bool) -> None:
    from deployments.cli.board import show_board

    show_board(scale, json=json)
