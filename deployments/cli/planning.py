"""`datacomp plan`: shows which steps are built, which are missing, and what the missing ones will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli import options, terminal
from deployments.cli.sweeps import captions_of, encoders_of, mix_of, sweep_of, tasks_of, tell_of_source

if TYPE_CHECKING:
    from datacomp_core.leaderboard.planning.estimate import PlanTotal, StepEstimate, StepWork
    from flows.captioning import CaptioningSpec
    from flows.parameters import SweepSpec

Rates = Annotated[
    Path | None, typer.Option("--rates", help="YAML file with your prices and speeds, in the form of rates.yaml.", exists=True)
]
Budget = Annotated[float | None, typer.Option("--budget", min=0, help="Refuse a plan that costs more.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Experiments")(plan)


def plan(
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
    rates: Rates = None,
    budget: Budget = None,
    json: options.Json = False,
) -> None:
    """Show which steps of an experiment are built, which are missing, and what the missing ones will cost. Nothing is run.
    Time, disk, traffic, GPU-hours and money come from the store's records if there are any, else from documented figures.

        Examples:

          datacomp plan -r no_filter -r clip_score_tiny -s 0 -s 1

          datacomp plan --scale medium -r clip_score --rates mine.yaml --budget 500
    """
    from datacomp_core.leaderboard.planning.estimate import require_budget

    where = {"pool": pool, "shards": shards, "evalsets": evalsets, "open_networks": open_networks, "made_from": made_from}
    where["decoding"] = decoding
    named = {"recipes": recipe, "subsets": subset, "name": name}
    given = {**encoders_of(embed), **captions_of(captions), **mix_of(mix), **tasks_of(add_tasks, task_data)}
    spec = sweep_of(scale, **named, seeds=seed, pool_seeds=pool_seed, **where, **given)
    tell_of_source(spec.pool)
    steps, whole = estimated_plan(spec, rates)
    _tell(steps, whole, json=json)
    require_budget(whole, budget)


def estimated_plan(spec: SweepSpec, rates: Path | None = None) -> tuple[list[StepEstimate], PlanTotal]:
    """Return the steps of a sweep with the cost of each, and the sum. SpecError for a wrong rate or a missing pool."""
    from flows.chain import experiments

    return _estimated(lambda call: experiments(call, spec.experiments()), spec.scale, spec.pool, rates)


def show_captions(spec: CaptioningSpec, rates: Path | None = None, *, json: bool) -> None:
    """Show the steps that make a caption set, with the cost of each."""
    from flows.captioning import captions

    _tell(*_estimated(lambda call: captions(call, spec), spec.scale, spec.pool, rates), json=json)


def _estimated(chain: Callable[[Any], Any], scale: str, pool: str, rates: Path | None) -> tuple[list[StepEstimate], PlanTotal]:
    from datacomp_core.leaderboard.planning.estimate import estimate, total
    from datacomp_core.leaderboard.planning.rates import load
    from tasks.run_step import store

    table = load(rates)
    steps = estimate(_works(chain, scale, pool), table, store())
    return steps, total(steps, table)


def _works(chain: Callable[[Any], Any], scale: str, pool: str) -> list[StepWork]:
    """Return the steps of a chain, each with its amount of work."""
    from datacomp_core.leaderboard.planning.estimate import StepWork
    from flows.chain import plan as plan_chain
    from tasks.run_step import store

    identities: list[tuple[Any, ...]] = []
    asked: dict[int, Any] = {}

    def walk(call: Any) -> None:
        def noted(task: Any, /, *identity: Any, **options: Any) -> Any:
            identities.append(identity)
            planned = call(task, *identity)
            asked[id(planned)] = identity[0]
            return planned

        chain(noted)

    steps = plan_chain(walk, store())
    candidates = _candidates(scale, pool, identities)
    return [
        StepWork(
            kind=step.kind,
            what=_what(step.kind, identity),
            name=step.name,
            scale=scale,
            num_samples=_num_samples(scale, identity, candidates, asked),
            is_built=step.is_built,
            why=step.why,
            model=_model(step.kind, identity),
            address=step.address,
        )
        for step, identity in zip(steps, identities, strict=True)
    ]


def _what(kind: str, identity: tuple[Any, ...]) -> str:
    """The row of the table of rates."""
    if kind == "shards" and _subset(identity) is not None:
        return "reshard"
    return str(getattr(identity[0], "kind", kind)) if kind == "captions" else kind


def _model(kind: str, identity: tuple[Any, ...]) -> str:
    """The model that a step trains, or that writes its captions."""
    trained = next((item.recipe.model for item in identity if _is_training(item)), "")
    return str(getattr(identity[0], "model", "")) if kind == "captions" else trained


def _candidates(scale: str, pool: str, identities: Sequence[tuple[Any, ...]]) -> int:
    """Return the size of the pool: as stored, as requested, or the size of the scale's CommonPool."""
    from datacomp_core.artifacts import Pool
    from datacomp_core.scales import SCALES
    from tasks.run_step import stored

    if pool:
        return stored(Pool, pool).num_samples
    asked = (int(item.num_pairs) for identity in identities for item in identity if hasattr(item, "num_pairs"))
    return next(asked, SCALES[scale].train_num_samples)


def _num_samples(scale: str, identity: tuple[Any, ...], candidates: int, asked: dict[int, Any]) -> int:
    """Return the samples a training sees, the rows a recipe kept or (by the paper, or its stated share) will keep, else the
    whole pool."""
    from datacomp_core.leaderboard.planning.kept_fraction import share
    from datacomp_core.pool.tiny import TinyPoolSpec

    for item in identity:
        if _is_training(item):
            return int(item.recipe.train_num_samples)
    for item in identity:
        if hasattr(item, "num_pairs"):
            return int(item.num_pairs)
    if scale == "tiny" and len(identity) == 1:  # made from a spec alone, and as large as the embedded pool
        return TinyPoolSpec().num_pairs
    subset = _subset(identity)
    if subset is None:
        return candidates
    if subset.is_built:
        return subset.artifact.num_samples
    spec = asked[id(subset)]
    stated = spec.filter.expected_share(candidates) if hasattr(spec, "filter") else None
    return int(candidates * share(scale, getattr(spec, "recipe", ""), stated))


def _is_training(item: Any) -> bool:
    return hasattr(getattr(item, "recipe", None), "train_num_samples")


def _subset(identity: tuple[Any, ...]) -> Any:
    """The subset, planned or built, that a step reads."""
    return next((item for item in identity if getattr(item, "kind", "") == "subsets"), None)


def _tell(steps: Sequence[StepEstimate], whole: PlanTotal, *, json: bool) -> None:
    if json:
        terminal.print_json({"steps": [step.model_dump() for step in steps], "total": whole.model_dump()})
    else:
        _show(steps, whole)


def _show(steps: Sequence[StepEstimate], whole: PlanTotal) -> None:
    from datacomp_core.leaderboard.site.number_format import duration, volume

    def cells(step: StepEstimate) -> tuple[str, ...]:
        if step.built:
            return ("[cyan]built[/]", step.kind, step.name, "", "", "", "", step.why)
        gpu, why = f"{step.gpu_hours:,.1f}" if step.gpu_hours else "", f"{step.why}; {step.source}"
        size, cost = volume(step.disk_bytes), f"{step.money:,.2f}"
        return ("[yellow]to build[/]", step.kind, step.name, duration(3600 * step.hours), gpu, size, cost, why)

    right = ("time", "GPU-hours", "disk", whole.currency)
    terminal.table("Plan", ("status", "step", "name", *right, "why; source of figures"), map(cells, steps), right=right)
    left = sum(not step.built for step in steps)
    sizes = f"{volume(whole.disk_bytes)} on disk, {volume(whole.traffic_bytes)} of traffic"
    terminal.out.print(
        f"[bold]To build: {left} of {len(steps)} steps[/], about {duration(3600 * whole.hours)} in sequence, "
        f"{whole.gpu_hours:,.1f} GPU-hours, {sizes}, [bold]{whole.money:,.2f} {whole.currency}[/]"
    )
