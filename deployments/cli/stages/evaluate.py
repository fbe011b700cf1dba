"""`datacomp evaluate`: zero-shot scores of an experiment, or of a checkpoint file on a folder of test sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import until


def add_to(app: typer.Typer) -> None:
    app.command("evaluate", rich_help_panel="Stages")(evaluate)


def evaluate(
    recipe: until.Recipe = until.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: until.Seed = 0,
    pool_seed: until.PoolSeed = 0,
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
        until.run_to("evaluate", until.spec_of(scale, recipe, seed=seed, pool_seed=pool_seed), json=json)
    elif data is None or out is None:
        raise SpecError(
            "Evaluating a file needs --model, --data and --out together (and --checkpoint, unless weights are random)."
        )
    else:
        _evaluate_folder(model, checkpoint, data, out, suite, tasks or [], json=json)


def _evaluate_folder(
    model: str, checkpoint: Path | None, data: str, out: str, suite: str, tasks: list[str], *, json: bool
) -> None:
    """Zero-shot scores of a checkpoint file on a folder of test sets."""
    from datacomp_core.evaluation import evaluate as evaluation

    with terminal.shown_progress("evaluate", quiet=json) as progress:
        spec = evaluation.EvalSpec(suite=suite or "datacomp", tasks=tuple(tasks)) if suite or tasks else None
        report = evaluation.evaluate_folder(
            model=model,
            checkpoint=checkpoint,
            data=data,
            out=out,
            spec=spec,
            device=settings().device,
            workers=settings().num_workers,
            progress=progress,
        )
    if json:
        terminal.print_json(report.model_dump(mode="json"))
        return
    rows = [(task.name, task.main_metric, _percent(task.value), f"{task.count:,}") for task in report.tasks]
    terminal.table(
        f"Zero-shot, {report.suite} v{report.suite_version}",
        ("task", "metric", "score", "samples"),
        rows,
        right=("score", "samples"),
    )
    missing = f" (no average: {', '.join(report.missing)} missing)" if report.missing else ""
    terminal.out.print(f"Average: [bold]{_percent(report.average)}[/]{missing}   Report: {out}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
