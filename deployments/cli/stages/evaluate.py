"""`datacomp evaluate`: evaluates an experiment zero-shot, or any model on a folder of test sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datacomp_core.artifacts import OWN_SUITE
from datacomp_core.errors import IncompleteError, SpecError
from datacomp_core.settings import settings
from deployments.cli import options, terminal
from deployments.cli.stages import own_tasks, run_to_stage
from deployments.cli.sweeps import encoders_of, tasks_of

if TYPE_CHECKING:
    from datacomp_core.evaluation.custom import TaskRow
    from datacomp_core.evaluation.deviation import Deviation
    from datacomp_core.evaluation.evaluate import EvalSpec, FailedTasksError
    from datacomp_core.evaluation.golden_scores import Golden, TaskComparison
    from datacomp_core.evaluation.report import Report
    from datacomp_core.store.content_marks import Trust

MODEL = "open_clip name (with --checkpoint), NAME/TAG of a release, hf-hub:owner/name, or a folder with a CLIP."

MANY = 6


def add_to(app: typer.Typer) -> None:
    app.command("evaluate", rich_help_panel="Stages")(evaluate)


def evaluate(
    recipe: run_to_stage.Recipe = run_to_stage.DEFAULT_RECIPE,
    scale: options.Scale = "tiny",
    seed: run_to_stage.Seed = 0,
    pool_seed: run_to_stage.PoolSeed = 0,
    pool: options.Pool = "",
    embed: options.Embed = None,
    model: Annotated[str | None, typer.Option(help=f"Instead of an experiment: {MODEL}")] = None,
    config: Annotated[Path | None, typer.Option(help="Instead of --model: open_clip configuration file (.json).")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="With --model: open_clip checkpoint or safetensors.")] = None,
    golden: Annotated[
        str | None, typer.Option(help="Evaluate a released checkpoint and compare it with its published scores.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --model or --add-tasks: folder or bucket of test sets (wds_*_test).")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download the sets that are missing in --data from the hub.")
    ] = False,
    out: Annotated[str | None, typer.Option(help="With --model: folder for the report.")] = None,
    suite: Annotated[str, typer.Option(help="With --model: suite. Default: the suite whose sets are in --data.")] = "",
    tasks: Annotated[
        list[str] | None, typer.Option(help="With --model: only this task, from the suite or your own; repeat for several.")
    ] = None,
    add_tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own tasks: a YAML file with one row per task, a Python file, or a registered task; repeat for several."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="reference (exact), fp32 or bf16.")] = "reference",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the image tower (faster on a GPU).")] = False,
    decoding: Annotated[str, typer.Option(help="full (exact), or fast: resized by torch, equal to rounding.")] = "full",
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 256,
    deviation: Annotated[
        bool, typer.Option("--deviation", help="Also evaluate in the exact mode, and show the differences.")
    ] = False,
    few_shot: Annotated[
        list[int] | None, typer.Option(min=1, help="Also evaluate with K labelled images per class; repeat for several.")
    ] = None,
    linear_probe: Annotated[bool, typer.Option("--linear-probe", help="Also train a linear probe on half of each set.")] = False,
    device: Annotated[str, typer.Option(help="Torch device; separate several with commas, or cuda:* for all.")] = "",
    trust_times: options.TrustTimes = False,
    list_: Annotated[
        bool, typer.Option("--list", help="List the tasks and protocols, including those of other packages.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Evaluate a model zero-shot: the model of an experiment, or any model on a folder of test sets.

    Examples:

      datacomp evaluate --recipe clip_score_tiny --seed 0

      datacomp evaluate --model ViT-B-32 --checkpoint epoch_5.pt --data evalsets --out results

      datacomp evaluate --config mine.json --checkpoint epoch_5.pt --data evalsets --out results

      datacomp evaluate --golden ViT-B-32/datacomp_xl_s13b_b90k --data evalsets --out results

      datacomp evaluate --model ViT-B-32 --checkpoint epoch_5.pt --data evalsets --out results --add-tasks mine.py

      datacomp evaluate --list
    """
    if list_:
        own_tasks.show(own_tasks.given(add_tasks), json=json)
        return
    if config is not None and model is not None:
        raise SpecError("--config and --model both name a model: give one of them.")
    if config is not None and config.suffix != ".json":
        raise SpecError(f"--config takes open_clip's configuration file (.json), not {config}: a name or a folder is --model.")
    model = model if config is None else str(config)
    if model is None and golden is None:
        _require_none_of(
            {"--checkpoint": checkpoint, "--out": out, "--download": download, "--suite": suite, "--tasks": tasks}
            | {"--precision": precision != "reference", "--compile": compiled, "--batch-size": batch_size != 256}
            | {"--decoding": decoding != "full"}
            | {"--deviation": deviation, "--few-shot": few_shot, "--linear-probe": linear_probe, "--device": device}
        )
        given = {**encoders_of(embed), **tasks_of(add_tasks, data or "", option="--data")}
        run_to_stage.run_to(
            "evaluate", run_to_stage.spec_of(scale, recipe, seed=seed, pool_seed=pool_seed, pool=pool, **given), json=json
        )
        return
    if data is None or out is None or (model is not None and golden is not None):
        raise SpecError("Evaluating a model needs --model or --config (with --checkpoint) or --golden, and --data and --out.")
    from datacomp_core.clip_sources import require_weights
    from datacomp_core.evaluation import golden_scores

    if model is not None:
        require_weights(model, checkpoint)
    expected = golden_scores.golden(golden) if golden else None
    spec = _spec(
        data,
        suite or (expected.suite if expected else "datacomp" if download else ""),
        own_tasks.given(add_tasks),
        tasks=tuple(tasks or ()),
        precision=precision,
        compile="yes" if compiled else "no",
        decoding=decoding,
        batch_size=batch_size,
        few_shot=tuple(few_shot or ()),
        linear_probe="yes" if linear_probe else "no",
    )
    if download or expected:
        _download(spec, data, json=json)
    named = expected.model if expected else str(model)
    run = _Run(named, checkpoint, data, spec, device, json, trust="times" if trust_times else "content")
    _show(run, out, expected, deviation=deviation)


def _require_none_of(options_of_models: dict[str, Any]) -> None:
    """Raise SpecError for options that an experiment ignores: its scale says how it is evaluated."""
    if given := [name for name, value in options_of_models.items() if value]:
        raise SpecError(f"{', '.join(given)}: these are for a model that you name, and none is named: add --model or --golden.")


def _spec(data: str, suite: str, rows: tuple[TaskRow, ...], **fields: Any) -> EvalSpec:
    """Build the spec from the options. Custom tasks alone need no suite."""
    from datacomp_core.errors import DataError
    from datacomp_core.evaluation.evaluate import EvalSpec, sets_in, suite_in

    rows = (*rows, *own_tasks.registered(fields["tasks"], rows))
    if suite:
        return EvalSpec(suite=suite, extra_tasks=rows, **fields)
    if fields["tasks"]:
        return EvalSpec(suite=_suite_of(fields["tasks"], rows, data), extra_tasks=rows, **fields)
    sets = sets_in(data)
    try:
        suite = suite_in(sets, {row.folder for row in rows})
    except DataError:
        if not rows:
            raise
        suite = OWN_SUITE
    spec = EvalSpec(suite=suite, extra_tasks=rows, **fields)
    return _there(spec, data) if rows else spec


def _suite_of(tasks: Sequence[str], rows: Sequence[TaskRow], data: str) -> str:
    """Return the suite that has the named tasks, custom tasks aside; `custom` if all are custom. If no suite has them, return
    the suite whose sets are in the folder: the error lists its tasks.
    """
    from datacomp_core.errors import DataError
    from datacomp_core.evaluation.catalog import SUITES
    from datacomp_core.evaluation.evaluate import suite_in
    from datacomp_core.store import Folder

    own = {name for row in rows for name in (row.key, row.name)}
    wanted = {name for name in tasks if name not in own}
    if not wanted:
        return OWN_SUITE
    known = {name: {word for task in found.tasks for word in (task.key, task.name)} for name, found in SUITES.items()}
    fitting = next((name for name, words in known.items() if wanted <= words), "")
    if fitting:
        return fitting
    try:
        return suite_in(Folder(data), {row.folder for row in rows})
    except DataError:
        return OWN_SUITE if rows else "datacomp"


def _there(spec: EvalSpec, data: str) -> EvalSpec:
    """Return, besides custom tasks, the suite's tasks whose sets are in the folder. The report names the others as missing."""
    from datacomp_core.evaluation import hf_cache
    from datacomp_core.store import Folder

    sets, wanted = Folder(data), spec.wanted()
    there, own = set(sets.folders()), {row.key for row in spec.extra_tasks}
    chosen = [
        task.key for task in wanted if task.key in own or task.folder in there or hf_cache.is_cached(hf_cache.place(sets, task))
    ]
    if len(chosen) == len(wanted):
        return spec
    others = len(wanted) - len(chosen)
    terminal.notes.print(f"{others} tasks of the suite {spec.suite} were not evaluated: {data} has no sets for them.")
    return spec.model_copy(update={"tasks": tuple(chosen)})


def _download(spec: EvalSpec, data: str, *, json: bool) -> None:
    from datacomp_core.evaluation import download
    from datacomp_core.store import Folder

    with terminal.shown_progress("test sets", quiet=json) as progress:
        download.download([task for task in spec.wanted() if not task.at], Folder(data), progress=progress)


class _Run:
    """Evaluate one model on one folder of sets, in any mode."""

    def __init__(
        self,
        model: str,
        checkpoint: Path | None,
        data: str,
        spec: EvalSpec,
        device: str,
        json: bool,
        *,
        trust: Trust = "content",
    ) -> None:
        self.trust: Trust = trust
        self.model, self.checkpoint, self.data, self.spec, self.json = model, checkpoint, data, spec, json
        self.device = device or settings().device

    def __call__(self, out: str, **changed: Any) -> Report:
        from datacomp_core.evaluation import evaluate as evaluation

        with terminal.shown_progress("evaluate", quiet=self.json) as progress:
            return evaluation.evaluate_folder(
                model=self.model,
                checkpoint=self.checkpoint,
                data=self.data,
                out=out,
                spec=self.spec.model_copy(update=changed),
                device=self.device,
                workers=settings().num_workers,
                trust=self.trust,
                progress=progress,
            )


def _show(run: _Run, out: str, expected: Golden | None, *, deviation: bool) -> None:
    from datacomp_core.evaluation import deviation as deviations
    from datacomp_core.evaluation import golden_scores
    from datacomp_core.evaluation.evaluate import FailedTasksError
    from datacomp_core.store import Folder

    try:
        report = run(out)
    except FailedTasksError as problem:
        raise _told(problem, out, json=run.json) from problem
    compared = golden_scores.compare(expected, report) if expected else []
    measured: Deviation | None = None
    if deviation:
        run(f"{out}/exact", precision="reference", compile="no", decoding="full", batch_size=256)
        measured = deviations.measure(Folder(f"{out}/exact"), Folder(out))
    if run.json:
        shown = report.model_dump(mode="json")
        if compared:
            shown["golden"] = [_golden_row(row) for row in compared]
        if measured:
            shown["deviation"] = measured.model_dump(mode="json")
        terminal.print_json(shown)
    else:
        _scores(report, out)
        if compared:
            _golden(compared)
        if measured:
            _deviation(measured)
    lost = [row.task.name for row in compared if not row.holds]
    if lost:
        raise IncompleteError(f"{len(lost)} of {len(compared)} tasks differ from the published scores: {', '.join(lost)}.")


def _told(problem: FailedTasksError, out: str, *, json: bool) -> IncompleteError:
    """Show the results, then each failure in one line; return the remaining error."""
    terminal.print_json(problem.report.model_dump(mode="json")) if json else _scores(problem.report, out)
    for task in problem.failed:
        terminal.notes.print(f"failed: {task.key}: {' '.join(task.error.split())}", markup=False)
    return IncompleteError(f"{problem.summary} Report: {out}")


def _scores(report: Report, out: str) -> None:
    rows = [
        (task.name, task.main_metric or "", _percent(task.value), f"{task.count:,}") for task in report.tasks if not task.error
    ]
    title = f"Zero-shot, {report.suite} v{report.suite_version}, {report.model}, {report.mode}"
    terminal.table(title, ("task", "metric", "score", "samples"), rows, right=("score", "samples"))
    probed = [
        (task.name, name, _probed(value)) for task in report.tasks for name, value in task.analysis.get("probes", {}).items()
    ]
    if probed:
        terminal.table("On labelled images of the test sets", ("task", "probe", "accuracy"), probed, right=("accuracy",))
    others = {**report.groups, _clean_title(report): report.clean_average, "over chance": report.above_chance_average}
    told = "   ".join(f"{name}: {_percent(value)}" for name, value in others.items() if value is not None)
    own = [key for key in report.missing if key not in _keys(report.suite)]
    of_suite = [key for key in report.missing if key not in own]
    if _keys(report.suite):
        terminal.out.print(f"Average: {_average(report.average, of_suite)}   {told}".rstrip())
    if own or report.own_average is not None:
        terminal.out.print(f"Average of your own tasks: {_average(report.own_average, own)}")
    terminal.out.print(f"Report: {out}", soft_wrap=True, markup=False)


def _keys(suite: str) -> set[str]:
    from datacomp_core.evaluation.catalog import SUITES

    return {task.key for task in SUITES[suite].tasks}


def _average(value: float | None, missing: Sequence[str]) -> str:
    if value is not None:
        return f"[bold]{_percent(value)}[/]"
    if not missing:
        return "none"
    named = ", ".join(missing) if len(missing) <= MANY else f"{len(missing)} of its tasks, {', '.join(missing[:2])} and others,"
    return f"none ({named} {'is' if len(missing) == 1 else 'are'} missing)"


def _clean_title(report: Report) -> str:
    """Return the number of tasks in the average without the near-chance tasks: 33 in DataComp's suite."""
    from datacomp_core.evaluation.catalog import SUITES

    found = SUITES.get(report.suite)
    number = sum(not task.near_chance for task in found.scored) if found else 0
    return f"{number} tasks above chance" if number else "tasks above chance"


def _golden(compared: Sequence[TaskComparison]) -> None:
    rows = [
        (
            row.task.name,
            _percent(row.published, 2),
            _percent(row.ours, 2),
            _percent(row.tolerance, 2),
            "yes" if row.holds else "NO",
        )
        for row in compared
    ]
    columns = ("task", "published", "here", "tolerance", "equal")
    terminal.table("Compared with the published scores", columns, rows, right=columns[1:4])


def _golden_row(row: TaskComparison) -> dict[str, Any]:
    return {"key": row.task.key, "published": row.published, "here": row.ours, "tolerance": row.tolerance, "holds": row.holds}


def _deviation(measured: Deviation) -> None:
    rows = [
        (
            task.name,
            _percent(task.exact, 3),
            _percent(task.fast, 3),
            _percent(task.difference, 3),
            f"{task.flips}/{task.outcomes}",
        )
        for task in measured.tasks
    ]
    columns = ("task", "exact", "fast", "difference", "flips")
    terminal.table(f"{measured.fast}, against {measured.exact}", columns, rows, right=columns[1:])


def _probed(value: Any) -> str:
    if not isinstance(value, dict):
        return _percent(value)
    short = f" ({value['short_classes']} classes have fewer images)" if "short_classes" in value else ""
    return f"{_percent(value['mean'])} ± {_percent(value['std'])}{short}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"
