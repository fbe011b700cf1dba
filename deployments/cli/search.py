"""`datacomp search`: searches for a filter by trials and tests whether the best one is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.interrupt import exits_at_interrupt
from deployments.local_server import prefect_api, prepare_environment

if TYPE_CHECKING:
    from datacomp_core.leaderboard.search.study import Study
    from flows.search_spec import SearchSpec

MAX_ROWS = 10


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Experiments")(search)


def search(
    file: Annotated[
        str, typer.Argument(help="A YAML file of a filter with ranges and choices instead of values, or searches/ADDRESS.")
    ] = "",
    trials: Annotated[int | None, typer.Option(min=1, help="Maximum number of filters to try.")] = None,
    hours: Annotated[float | None, typer.Option(help="Budget of wall time.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="Budget of GPU-hours.")] = None,
    money: Annotated[float | None, typer.Option(help="Budget in the currency of the rates.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be tried and what is finished; run nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the searches of the store.")] = False,
    json: options.Json = False,
) -> None:
    """Search for a filter. Each trial is a whole experiment, and the winner runs again with fresh seeds before a result is
    claimed. A search that was killed, or that gets a larger budget, resumes where it stopped.

        Examples:

          datacomp search fraction.yaml

          datacomp search fraction.yaml --trials 40 --hours 6

          datacomp search searches/tiny/fraction--0123456789ab --json
    """
    prepare_environment()
    if listed:
        _list(json=json)
        return
    if not file:
        raise SpecError("No search is given: give the YAML file of a search, the address of one in the store, or --list.")
    if file.startswith("searches/"):
        _show(file, json=json)
        return
    from flows.search_spec import search_of

    spec = search_of(Path(file), trials=trials, hours=hours, gpu_hours=gpu_hours, money=money)
    if plan:
        _plan(spec, json=json)
        return
    execute(spec, quiet=json)
    _show(spec.address(), json=json)


def execute(spec: SearchSpec, *, quiet: bool) -> None:
    """Run a search through Prefect, as its deployment does."""
    console = terminal.notes if quiet else terminal.out
    console.print("[dim]starting Prefect …[/]")
    with prefect_api() as api:
        console.print(f"Prefect UI while this runs: [bold]{api.removesuffix('/api')}[/]")
        from flows.search import search as flow

        with terminal.shown_steps(quiet=quiet), exits_at_interrupt():
            flow(spec)


def _list(*, json: bool) -> None:
    from datacomp_core.leaderboard.search.study import searches
    from tasks.run_step import store

    found = searches(store())
    if json:
        terminal.print_json({"searches": found})
        return
    for address in found:
        terminal.out.print(address, markup=False)
    if not found:
        terminal.out.print("The store has no searches yet: start one with `datacomp search FILE.yaml`.")


def _plan(spec: SearchSpec, *, json: bool) -> None:
    from datacomp_core.leaderboard.search.journal import Journal
    from tasks.run_step import store

    over = len(Journal(store().root / spec.address()).trials())
    told: dict[str, Any] = {
        "address": spec.address(),
        "parameters": {name: free.model_dump(exclude_defaults=True) for name, free in spec.the_space().free.items()},
        "trials": spec.trials,
        "over": over,
        "runs_a_trial": len(spec.rungs()),
        "final_runs": 2 * len(spec.final_seeds),
        "against": spec.baseline,
    }
    if json:
        terminal.print_json(told)
        return
    counts = f"{spec.trials} trials, {over} finished, {spec.at_once} at a time"
    terminal.out.print(f"Search {terminal.bold(spec.name)} at {spec.scale}: {counts}.")
    rows = [(name, free.in_words) for name, free in spec.the_space().free.items()]
    terminal.table("Free parameters", ("name", "values"), rows)
    runs, final = told["runs_a_trial"], told["final_runs"]
    terminal.out.print(
        f"A trial runs up to {runs} training{'s' if runs > 1 else ''}; "
        f"the final test runs {final} with fresh seeds, against {spec.baseline}."
    )


def _show(address: str, *, json: bool) -> None:
    from datacomp_core.leaderboard.search.page import write_page
    from datacomp_core.leaderboard.search.study import study_of
    from tasks.run_step import store

    study = study_of(store(), address)
    page = write_page(store(), address, settings().home / "report")
    if json:
        curse = None if study.judgement is None else study.judgement.curse
        terminal.print_json({**study.model_dump(mode="json"), "curse": curse, "page": str(page)})
        return
    _table(study)
    if study.stopped:
        terminal.out.print(f"Stopped: {study.stopped}.", markup=False)
    if study.judgement is not None:
        terminal.out.print(terminal.bold(study.judgement.sentence))
    terminal.out.print(f"Page: {terminal.bold(str(page))}")


def _table(study: Study) -> None:
    from datacomp_core.leaderboard.search.plots import order, said

    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    rows = [
        (
            str(trial.number),
            "–" if trial.value is None else f"{100 * trial.value:.2f}",
            *said(trial.params, names),
            trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
        )
        for trial in order(study.trials)[:MAX_ROWS]
    ]
    terminal.table(f"Search {study.name}: best of {len(study.trials)} trials", ("trial", "average", *names, "state"), rows)
