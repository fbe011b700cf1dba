"""The stages on plain folders of the original tooling: no store, no server, no GPU needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli import terminal

if TYPE_CHECKING:
    from datacomp_core.filters.report import Explanation


def filter_folder(metadata: str, recipe: str, out: str | None, scores: list[str], *, json: bool) -> None:
    """A subset file from a folder or bucket of metadata parquets; without `out` a dry run."""
    from datacomp_core.filters.select import load_recipe, select

    folder, name = _place(out) if out else (None, "")
    with terminal.shown_progress("filter", quiet=json) as progress:
        chosen = select(
            load_recipe(recipe),
            Folder(metadata),
            [Folder(url) for url in scores],
            out=folder,
            name=name,
            write="subset",
            workers=settings().num_workers,
            progress=progress,
        )
    told = chosen.explanation
    if json:
        terminal.print_json({"out": out, "num_samples": chosen.num_samples, "num_unique": chosen.num_unique, **told.model_dump()})
        return
    explain(told)
    terminal.out.print(
        f"{chosen.num_samples:,} samples, {chosen.num_unique:,} unique" + (f": [bold]{out}[/]" if out else " (dry run)")
    )


def explain(told: Explanation) -> None:
    """What each step of a filter kept, and the first reason for which each row was dropped."""
    rows = [
        (step.title, "" if step.alone is None else f"{step.alone:,}", f"{step.asked:,}", f"{step.kept:,}") for step in told.steps
    ]
    columns = ("filter", "keeps alone", "asked", "kept")
    terminal.table(f"{told.recipe}: {told.kept:,} of {told.rows:,} rows kept", columns, rows, right=columns[1:])
    dropped = [(reason, f"{count:,}") for reason, count in told.dropped.items()]
    terminal.table("Dropped, by first reason", ("reason", "rows"), dropped, right=("rows",))


def reshard_folder(
    shards: str, subset: str, out: str, *, samples_per_shard: int, seed: int, tolerated_missing: float, json: bool
) -> None:
    """The chosen samples of a folder of tars as shards of their own."""
    from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders

    spec = ReshardSpec(samples_per_shard=samples_per_shard, seed=seed, tolerated_missing=tolerated_missing)
    with terminal.shown_progress("reshard", quiet=json) as progress:
        account = reshard_folders(Folder(shards), subset, Folder(out), spec, workers=settings().num_workers, progress=progress)
    counts = account.counts()
    if json:
        terminal.print_json({"out": out, **counts})
        return
    terminal.table(
        f"Resharded into {out}", ("what", "samples"), [(name, f"{n:,}") for name, n in counts.items()], right=("samples",)
    )


def evaluate_folder(
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


def _place(out: str) -> tuple[Folder, str]:
    """The folder and the name of a file given as one path or url."""
    folder, _, name = out.rpartition("/")
    return Folder(folder or "."), name
