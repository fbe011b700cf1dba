"""Evaluate a checkpoint on a suite: the step, and the same for plain folders.

The model is loaded once a device and every set is read once; the workers that decode are shared by all tasks. A task that
fails is named with its sample and the others still run; then the whole is an IncompleteError. What is done is kept by task.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from datacomp_core.artifacts import Checkpoint, EvalReport, EvalSets, Spec
from datacomp_core.clip_sources import ModelSource, StoredModel, source
from datacomp_core.cluster_workers import ClusterWorkers, of_cluster
from datacomp_core.device import default_device, devices_of
from datacomp_core.errors import DataError, IncompleteError, SpecError, unknown
from datacomp_core.evaluation import hf_cache, metrics
from datacomp_core.evaluation import report as reports
from datacomp_core.evaluation.catalog import SUITES, EvalTask, suite
from datacomp_core.evaluation.custom import TaskRow, tasks_of_rows
from datacomp_core.evaluation.report import Report, TaskResult
from datacomp_core.evaluation.run import Expected, ResultIdentity, run
from datacomp_core.evaluation.zero_shot_model import Compile, EvalModel, Exactness, Mode
from datacomp_core.pictures import Decoding
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.settings import settings
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.content_marks import Trust, versions

log = logging.getLogger(__name__)


class EvalSpec(Spec):
    """Which tasks, and how exactly."""

    suite: str = Field(default="tiny", description="Name of the suite: datacomp or tiny.")
    suite_version: int = Field(default=0, description="Version of its tasks and metrics; 0: the current version.")
    tasks: tuple[str, ...] = Field(
        default=(), description="Only these tasks (keys or names); empty: all. A part of them has no average."
    )
    precision: Mode = Field(
        default="reference", description="reference: the original's precision for each tower; fp32; or bf16 (faster)."
    )
    compile: Compile = Field(
        default="no", description="yes: torch.compile of the image tower (faster on a GPU, other last bits)."
    )
    decoding: Decoding = Field(
        default="full", description="full: exact pixels; fast: resized by torch, equal to rounding; the report's mode is fast."
    )
    batch_size: int = Field(default=256, ge=1, description="Images encoded together; it affects the last bits.")
    expected: Expected = Field(
        default="catalog",
        description="catalog: the numbers of samples and classes must match the task; any: they are not checked.",
    )
    extra_tasks: tuple[TaskRow, ...] = Field(default=(), description="Your own tasks, reported next to the suite's.")
    few_shot: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="Also classify with this number of labelled images per class."
    )
    linear_probe: Literal["no", "yes"] = Field(default="no", description="yes: also by logistic regression on half of the set.")

    @model_validator(mode="before")
    @classmethod
    def _current(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The version is in the spec, and so in the address: a suite that changes its meaning is evaluated again."""
        known = suite(str(given.get("suite", "tiny"))).version
        asked = given.get("suite_version") or known
        if asked != known:
            raise SpecError(
                f"Suite {given.get('suite', 'tiny')} is at version {known} here, not {asked}: leave suite_version out."
            )
        return {**given, "suite_version": known}

    def label(self) -> str:
        return self.suite

    def exactness(self) -> Exactness:
        return Exactness(self.precision, self.compile, self.decoding)

    def wanted(self) -> list[EvalTask]:
        """The tasks in the suite's order, then the user's own tasks."""
        known = [*suite(self.suite).tasks, *self.own()]
        if lost := [key for key in self.tasks if not any(key in (task.key, task.name) for task in known)]:
            raise unknown("evaluation task", lost[0], [task.key for task in known])
        return [task for task in known if not self.tasks or task.key in self.tasks or task.name in self.tasks]

    def own(self) -> list[EvalTask]:
        """The user's own tasks."""
        return tasks_of_rows(suite(self.suite), self.extra_tasks)


class FailedTasksError(IncompleteError):
    """Some tasks failed. The report is written; `report` is what went right, with the error of each task that did not."""

    report: Report

    @property
    def failed(self) -> list[TaskResult]:
        return [task for task in self.report.tasks if task.error]

    @property
    def summary(self) -> str:
        """Return the number of failed tasks and the consequence for the report."""
        of_suite = {task.key for task in suite(self.report.suite).tasks}
        lost = "so the report is incomplete"
        if any(task.scored for task in self.failed):
            lost = "so there is no average"
        elif any(task.key not in of_suite and task.main_metric for task in self.failed):
            lost = "so there is no average of your own tasks"
        return f"{len(self.failed)} of {len(self.report.tasks)} evaluation tasks failed, {lost}."


def _failed(made: Report) -> FailedTasksError:
    error = FailedTasksError()
    error.report = made
    error.args = (f"{error.summary} {'; '.join(f'{task.key}: {task.error}' for task in error.failed)}",)
    return error


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
    """Write `report.json`, `eval_results.jsonl` and `predictions/<task>.npz`. IncompleteError if a task failed.

    `device`: as in `devices_of`.
    """
    model = StoredModel(checkpoint.model, store.folder(checkpoint), checkpoint.fingerprint)
    sets = store.folder(evalsets)
    made = _evaluated(spec, model, sets, out=out, device=device, workers=workers, progress=progress)
    return EvalReport(
        suite=made.suite,
        suite_version=made.suite_version,
        num_tasks=len(made.tasks),
        average=made.average,
        counts={"samples": sum(task.count for task in made.tasks)},
    )


def evaluate_folder(
    *,
    model: str | ModelSource,
    checkpoint: Path | None = None,
    data: str,
    out: str,
    spec: EvalSpec | None = None,
    device: str = "",
    workers: int = 1,
    trust: Trust = "content",
    progress: Progress = NO_PROGRESS,
) -> Report:
    """The same for a model by name (see `clip_sources.source`) and a folder or bucket with the original's test sets.

    Without a spec, the suite is the one whose sets lie in `data`. Results in `out` are kept if all that they are made of is the
    same (docs/evaluation.md); `trust="times"` does not read sets whose files have their sizes and times. IncompleteError, after
    everything is written, if a task failed.
    """
    sets = sets_in(data)
    spec = spec or EvalSpec(suite=suite_in(sets))
    if isinstance(model, str):
        model = source(model, checkpoint, models())
    where = Folder(out)
    where.sweep_left_behind()
    return _evaluated(spec, model, sets, out=where, device=device, workers=workers, trust=trust, progress=progress)


def models() -> Folder:
    """Where models from a hub are kept on this machine."""
    return Folder(settings().home / "models")


def _evaluated(
    spec: EvalSpec,
    model: ModelSource,
    sets: Folder,
    *,
    out: Folder,
    device: str,
    workers: int,
    trust: Trust = "content",
    progress: Progress,
) -> Report:
    stations = of_cluster(device)
    devices = devices_of(device) if stations is None else (_own_device(stations),)
    kind = devices[0].partition(":")[0] if stations is None else stations.kind
    wanted, exactness, weights = spec.wanted(), spec.exactness(), model.fingerprint()
    made_of = model.made_of()
    identity = ResultIdentity(
        model=model.title,
        weights=weights,
        precision=spec.precision,
        compile=spec.compile,
        batch_size=spec.batch_size,
        device=kind,
        few_shot=spec.few_shot,
        linear_probe=spec.linear_probe == "yes",
    )
    here = EvalModel(model.load(devices[0]), exactness, kept=out, made_of=made_of)
    prepared = repr(here.clip.pixels) if spec.decoding == "full" else f"{here.clip.pixels!r}, {spec.decoding} decoding"
    own = versions(*metrics.LIBRARIES) | {"preparation of images": prepared}
    identity = identity.model_copy(update={"made_of": made_of | own})
    results = run(
        wanted,
        sets,
        model,
        here,
        identity,
        expected=spec.expected,
        out=out,
        devices=devices,
        workers=workers,
        trust=trust,
        progress=progress,
        stations=stations,
    )
    made = reports.make(
        suite(spec.suite),
        results,
        own=spec.own(),
        model=model.title,
        weights=weights,
        exactness=exactness,
        batch_size=spec.batch_size,
        device=kind,
    )
    reports.write(out, made)
    if any(result.error for result in results):
        raise _failed(made)
    return made


def _own_device(stations: ClusterWorkers) -> str:
    """Where this process encodes class names and captions while the stations of a cluster encode pictures."""
    own = default_device() if stations.gpus else "cpu"
    if stations.gpus and not own.startswith("cuda"):
        log.warning("this machine has no GPU: its CPU encodes class names and captions, the cluster's GPUs encode pictures")
    return own


def sets_in(data: str) -> Folder:
    """The folder of test sets. DataError if it is not there."""
    sets = Folder(data)
    if not sets.exists():
        raise DataError(f"{sets} does not exist: give the folder or bucket of the test sets.")
    return sets


def suite_in(sets: Folder, own: Collection[str] = ()) -> str:
    """The suite whose sets lie in a folder, apart from the folders in `own`. DataError if there are none."""
    there = set(sets.folders()) - set(own)
    for name, found in SUITES.items():
        if there & {task.folder for task in found.tasks} or (
            hf_cache.CACHE in there and any(hf_cache.is_cached(hf_cache.place(sets, task)) for task in found.tasks)
        ):
            return name
    raise DataError(f"{sets} has no test set of a known suite: give a folder that contains, for example, wds_cifar10_test.")
