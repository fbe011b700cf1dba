"""Evaluate a checkpoint on a suite: the step, and the same for plain folders.

The model is loaded once and every set is read once; the workers that decode are shared by all tasks. A task that fails is
named with its sample and the others still run; then the whole is an IncompleteError. What is done is kept task by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from datacomp_core import clip
from datacomp_core.artifacts import Checkpoint, EvalReport, EvalSets, Spec
from datacomp_core.errors import DataError, IncompleteError, SpecError
from datacomp_core.evaluation import report as reports
from datacomp_core.evaluation.catalog import SUITES, EvalTask, Suite, suite
from datacomp_core.evaluation.model import EvalModel, Mode
from datacomp_core.evaluation.report import Report
from datacomp_core.evaluation.run import Expected, Identity, run
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.folder import hash_file

NO_PROGRESS = NoProgress()


class EvalSpec(Spec):
    """Which tasks, and how exactly."""

    suite: str = Field(default="tiny", description="Name of the suite: datacomp or tiny.")
    suite_version: int = Field(default=0, description="What its tasks and metrics mean. 0: the current version.")
    tasks: tuple[str, ...] = Field(default=(), description="Only these (keys or names); empty: all. Fewer give no average.")
    precision: Mode = Field(default="reference", description="reference: as the original per tower; fp32; or bf16 (faster).")
    batch_size: int = Field(default=256, ge=1, description="Images encoded together; it moves the last bits.")
    expected: Expected = Field(default="catalog", description="catalog: sample and class counts must be the task's; any.")

    @model_validator(mode="before")
    @classmethod
    def _current(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The version stands in the spec, and so in the address: a suite that changes its meaning is evaluated anew."""
        known = suite(str(given.get("suite", "tiny"))).version
        asked = given.get("suite_version") or known
        if asked != known:
            raise SpecError(
                f"Suite {given.get('suite', 'tiny')} is at version {known} here, not {asked}: leave suite_version out."
            )
        return {**given, "suite_version": known}

    def label(self) -> str:
        return self.suite


@step("reports", version=1, name=lambda spec, checkpoint, evalsets: f"{checkpoint.name}-{spec.label()}")
def evaluate(
    spec: EvalSpec,
    checkpoint: Checkpoint,
    evalsets: EvalSets,
    *,
    out: Folder,
    store: Store,
    device: str = "",
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> EvalReport:
    """Write `report.json`, `eval_results.jsonl` and `predictions/<task>.npz`. IncompleteError if a task failed."""
    chosen = suite(spec.suite)
    with store.folder(checkpoint).open("checkpoint.pt") as file:
        loaded = clip.load(checkpoint.model, file, device or clip.default_device())
    made = _evaluated(
        spec, chosen, loaded, checkpoint.fingerprint, store.folder(evalsets), out=out, workers=workers, progress=progress
    )
    return EvalReport(
        suite=made.suite,
        suite_version=made.suite_version,
        num_tasks=len(made.tasks),
        average=made.average,
        counts={"samples": sum(task.count for task in made.tasks)},
    )


def evaluate_folder(
    *,
    model: str,
    checkpoint: Path | None,
    data: str,
    out: str,
    spec: EvalSpec | None = None,
    device: str = "",
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Report:
    """The same for a checkpoint file (None: random weights) and a folder or bucket with the original's test sets.

    Without a spec, the suite is the one whose sets lie in `data`. Results in `out` of the same model, data and versions are
    kept. IncompleteError, after everything is written, if a task failed.
    """
    sets = Folder(data)
    spec = spec or EvalSpec(suite=_suite_in(sets))
    chosen = suite(spec.suite)
    loaded = clip.load(clip.known(model), checkpoint, device or clip.default_device())
    weights = hash_file(checkpoint) if checkpoint else "random"
    return _evaluated(spec, chosen, loaded, weights, sets, out=Folder(out), workers=workers, progress=progress)


def _evaluated(
    spec: EvalSpec,
    chosen: Suite,
    loaded: clip.Clip,
    weights: str,
    sets: Folder,
    *,
    out: Folder,
    workers: int,
    progress: Progress,
) -> Report:
    wanted = _wanted(spec, chosen)
    identity = Identity(model=loaded.name, weights=weights, precision=spec.precision, batch_size=spec.batch_size)
    model = EvalModel(loaded, spec.precision)
    results = run(wanted, sets, model, identity, expected=spec.expected, out=out, workers=workers, progress=progress)
    made = reports.make(
        chosen, results, model=loaded.name, weights=weights, precision=spec.precision, device=loaded.device.partition(":")[0]
    )
    reports.write(out, made)
    failed = [result for result in results if result.error]
    if failed:
        told = "; ".join(f"{result.key}: {result.error}" for result in failed)
        raise IncompleteError(f"{len(failed)} of {len(results)} evaluation tasks failed, so there is no average. {told}")
    return made


def _wanted(spec: EvalSpec, chosen: Suite) -> Sequence[EvalTask]:
    named = {chosen.task(key).key for key in spec.tasks}
    return [task for task in chosen.tasks if not named or task.key in named]


def _suite_in(sets: Folder) -> str:
    there = set(sets.folders())
    for name, found in SUITES.items():
        if there & {task.folder for task in found.tasks}:
            return name
    raise DataError(f"{sets} has no test set of a known suite: a folder such as wds_cifar10_test is wanted.")
