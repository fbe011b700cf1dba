"""`datacomp plan`: which steps are built, which are to be built, and what those will take, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.cli import options, terminal
from deployments.cli.sweeps import sweep_of

if TYPE_CHECKING:
    from datacomp_core.leaderboard.planning.estimate import Estimate, Total, Work

WALKED = ("tiny",)  # the scales whose chain a flow walks
Rates = Annotated[Path | None, typer.Option("--rates", help="Your prices and speeds: YAML, as in rates.yaml.", exists=True)]
Budget = Annotated[float | None, typer.Option("--budget", min=0, help="Refuse what would cost more.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Experiments")(plan)


def plan(
    scale: options.Scale = "tiny",
    recipe: options.Recipes = None,
    seed: options.Seeds = None,
    pool_seed: options.PoolSeeds = None,
    rates: Rates = None,
    budget: Budget = None,
    json: options.Json = False,
) -> None:
    """Show which steps of an experiment are built and which are to be built, and what these will take. Nothing is run.

    Time, disk, traffic, GPU-hours and money come from the store's own records where there are any, else from documented figures.

    Examples:

      datacomp plan -r no_filter -r clip_score_tiny -s 0 -s 1

      datacomp plan --scale medium -r clip_score --rates mine.yaml --budget 500
    """
    from datacomp_core.leaderboard.planning.estimate import require_budget

    steps, whole = reckoned(scale, recipe, seed, pool_seed, rates)
    if json:
        terminal.print_json({"steps": [step.model_dump() for step in steps], "total": whole.model_dump()})
    else:
        _show(steps, whole)
    require_budget(whole, budget)


def reckoned(
    scale: str,
    recipe: Sequence[str] | None,
    seed: Sequence[int] | None,
    pool_seed: Sequence[int] | None,
    rates: Path | None = None,
) -> tuple[list[Estimate], Total]:
    """The steps of a sweep with what each will take, and the sum. SpecError for an unknown scale, recipe or rate."""
    from datacomp_core.filters.select import load_recipe
    from datacomp_core.leaderboard.planning.chain import standard
    from datacomp_core.leaderboard.planning.estimate import estimate, total
    from datacomp_core.leaderboard.planning.rates import load
    from datacomp_core.scales import scale as known_scale

    table = load(rates)
    if known_scale(scale).name in WALKED:
        store, works = _walked(scale, recipe, seed, pool_seed)
    else:
        recipes = [text for text in recipe or ["no_filter"] if load_recipe(text)]
        store = Store.open(settings().store_url)
        works = standard(store, scale, recipes, seed or [0])
    steps = estimate(works, table, store)
    return steps, total(steps, table)


def _walked(
    scale: str, recipe: Sequence[str] | None, seed: Sequence[int] | None, pool_seed: Sequence[int] | None
) -> tuple[Store, list[Work]]:
    """The chain's own steps."""
    from datacomp_core.leaderboard.planning.estimate import Work
    from flows.chain import experiments
    from flows.chain import plan as plan_chain
    from tasks.running import store

    spec = sweep_of(scale, recipe, seed, pool_seed)
    identities: list[tuple[Any, ...]] = []

    def walk(call: Any) -> None:
        def noted(task: Any, *identity: Any) -> Any:
            identities.append(identity)
            return call(task, *identity)

        experiments(noted, spec.experiments())

    steps = plan_chain(walk, store())
    pool = next((int(item.num_pairs) for given in identities for item in given if hasattr(item, "num_pairs")), 0)
    works = [
        Work(
            kind=step.kind,
            what="reshard" if step.kind == "shards" and _is_of_subset(identity) else step.kind,
            name=step.name,
            scale=scale,
            num_samples=_samples_seen(identity) or pool,
            is_built=step.is_built,
            why=step.why,
            address=step.address,
        )
        for step, identity in zip(steps, identities, strict=True)
    ]
    return store(), works


def _is_of_subset(identity: tuple[Any, ...]) -> bool:
    return any(getattr(item, "kind", "") == "subsets" for item in identity)


def _samples_seen(identity: tuple[Any, ...]) -> int:
    """What a training's recipe says; 0 for any other step."""
    recipes = [item.recipe for item in identity if hasattr(getattr(item, "recipe", None), "train_num_samples")]
    return int(recipes[0].train_num_samples) if recipes else 0


def _show(steps: Sequence[Estimate], whole: Total) -> None:
    from datacomp_core.leaderboard.site.words import duration, volume

    def cells(step: Estimate) -> tuple[str, ...]:
        if step.built:
            return ("[cyan]built[/]", step.kind, step.name, "", "", "", "", step.why)
        gpu, why = f"{step.gpu_hours:,.1f}" if step.gpu_hours else "", f"{step.why}; {step.source}"
        size, cost = volume(step.disk_bytes), f"{step.money:,.2f}"
        return ("[yellow]to build[/]", step.kind, step.name, duration(3600 * step.hours), gpu, size, cost, why)

    right = ("time", "GPU-hours", "disk", whole.currency)
    terminal.table("Plan", ("status", "step", "name", *right, "why; figures from"), map(cells, steps), right=right)
    left = sum(not step.built for step in steps)
    sizes = f"{volume(whole.disk_bytes)} on disk, {volume(whole.traffic_bytes)} of traffic"
    terminal.out.print(
        f"[bold]To build: {left} of {len(steps)} steps[/], about {duration(3600 * whole.hours)} one after another, "
        f"{whole.gpu_hours:,.1f} GPU-hours, {sizes}, [bold]{whole.money:,.2f} {whole.currency}[/]"
    )
