"""Shared parts of the stage commands: their options, and a function that runs an experiment's chain up to a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.store import Folder, PlannedStep
from deployments.cli import terminal
from deployments.cli.interrupt import exits_at_interrupt
from deployments.cli.sweeps import tell_of_source
from deployments.local_server import prefect_api, prepare_environment

if TYPE_CHECKING:
    from flows.parameters import ExperimentSpec
    from flows.stage import Stage


Recipe = Annotated[str, typer.Option("--recipe", "-r", help="Filter: a name (`datacomp filter --list`) or a YAML file.")]
Seed = Annotated[int, typer.Option("--seed", "-s", min=0, help="Training seed.")]
PoolSeed = Annotated[int, typer.Option("--pool-seed", min=0, help="Seed of the embedded pool.")]
DEFAULT_RECIPE = "clip_score_tiny"


def spec_of(scale: str, recipe: str = DEFAULT_RECIPE, *, seed: int = 0, pool_seed: int = 0, **more: Any) -> ExperimentSpec:
    """Return the experiment of a stage command. SpecError for an unknown scale."""
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from flows.parameters import ExperimentSpec

    return ExperimentSpec.model_validate({"scale": scale, "recipe": recipe, "seed": seed, "pool_seed": pool_seed, **more})


def run_to(until: Stage, spec: ExperimentSpec, *, json: bool) -> None:
    """Run the chain up to a stage, if it is not built, and show its result."""
    from flows.chain import STAGES, plan
    from tasks.run_step import store

    tell_of_source(spec.pool)
    wanted = list[Any]()
    steps = plan(lambda call: wanted.append(STAGES[until](call, spec)), store())
    made: Any = wanted[0].artifact if isinstance(wanted[0], PlannedStep) else wanted[0]
    if all(step.is_built for step in steps):
        terminal.notes.print(f"all {len(steps)} steps are built")
    else:
        with prefect_api(), terminal.shown_steps(quiet=json), exits_at_interrupt():
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


def target(out: str) -> tuple[Folder, str]:
    """Return the `place` of a file to write, and remove what killed commands left there."""
    folder, name = place(out)
    folder.sweep_left_behind(name)
    return folder, name


def place(out: str) -> tuple[Folder, str]:
    """Return the folder and the name of a file given as one path or url."""
    folder, _, name = out.rpartition("/")
    return Folder(folder or "."), name
