"""The one loop over all tasks: batches of every set through shared decoders, the model, and each task's protocol.

A finished task is kept with what it was made of; a rerun in the same folder takes it only if all of that is equal.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from datacomp_core.clip_sources import ModelSource
from datacomp_core.cluster_workers import ClusterWorkers
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.evaluation import hf_cache
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import TestSet
from datacomp_core.evaluation.encode import Encoded, EncodeJob, Features, encode_all, encode_apart, encode_on_cluster
from datacomp_core.evaluation.probes import Probes, probe
from datacomp_core.evaluation.protocol import EvalProtocol, TaskOutcome
from datacomp_core.evaluation.protocols import protocol_of
from datacomp_core.evaluation.report import TaskResult
from datacomp_core.evaluation.zero_shot_model import EvalModel
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.progress import Progress
from datacomp_core.store.content_marks import ContentMark, Marks, Trust, describe_changes, marks
from datacomp_core.store.folder import Folder

log = logging.getLogger(__name__)

Expected = Literal["catalog", "any"]
TASKS, PREDICTIONS = "tasks", "predictions"
BYTES_A_WORKER = 32 << 20  # fewer are decoded sooner in this process than a new one is started


class ResultIdentity(BaseModel):
    """The settings and versions that a kept result was computed with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    weights: str
    precision: str
    compile: str
    batch_size: int
    device: str
    few_shot: tuple[int, ...]
    linear_probe: bool
    made_of: dict[str, str] = {}


NAMES = {"batch_size": "batch size", "few_shot": "few-shot setting", "linear_probe": "linear probe"}


class KeptResult(BaseModel):
    """`tasks/<task>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: ResultIdentity
    task: EvalTask
    expected: Expected
    files: dict[str, ContentMark]
    result: TaskResult


@dataclass
class _Open:
    """A task at work. Batches may come in any order and are handed on in theirs."""

    task: EvalTask
    data: TestSet
    protocol: EvalProtocol
    digest: Any
    began: float
    next: int = 0
    seen: int = 0
    early: dict[int, Encoded] = field(default_factory=dict[int, Encoded])
    features: list[Features] = field(default_factory=list[Features])


class _Run:
    def __init__(
        self,
        sets: Folder,
        model: EvalModel,
        identity: ResultIdentity,
        expected: Expected,
        out: Folder,
        trust: Trust,
        progress: Progress,
    ) -> None:
        self.sets, self.model, self.identity, self.out, self.progress = sets, model, identity, out, progress
        self.trust: Trust = trust
        self.marks: dict[str, Marks] = {}
        self.expected: Expected = expected
        self.probes = Probes(identity.few_shot, identity.linear_probe)
        self.open: dict[str, _Open] = {}
        self.results: dict[str, TaskResult] = {}

    def jobs(self, tasks: Sequence[EvalTask]) -> Iterator[EncodeJob]:
        """Open each set when its turn comes; stop reading a set that has failed."""
        for task in tasks:
            began = time.monotonic()
            try:
                self.files(task)
                opened = self._opened(task, began)
            except DatacompError as problem:
                self._fail(task, str(problem), began)
                continue
            self.open[task.key] = opened
            for batch in opened.data.batches(task.key, self.identity.batch_size, self.model.pixels):
                if task.key not in self.open:
                    break
                yield EncodeJob(batch, opened.protocol.half)

    def _opened(self, task: EvalTask, began: float) -> _Open:
        protocol = protocol_of(task.protocol, task.code)
        with explain_import_errors():
            data = protocol.open(hf_cache.place(self.sets, task))
        if self.expected == "catalog":
            for what, wanted, found in (
                ("samples", task.size, data.size),
                ("classes", task.classes, len(data.classnames)),
            ):
                if wanted is not None and wanted != found:
                    raise DataError(f"{data.folder} has {found} {what} and the task has {wanted}; download the set again.")
        names = "\n".join((*data.classnames, "", *data.templates)).encode()
        with explain_import_errors():
            return _Open(task, data, protocol(task, data, self.model), hashlib.sha256(names), began)

    def take(self, task: str, number: int, samples: Encoded) -> None:
        """A batch of a task, however late or early it comes."""
        opened = self.open.get(task)
        if opened is None:
            return
        opened.early[number] = samples
        while opened.next in opened.early:
            samples = opened.early.pop(opened.next)
            opened.next += 1
            try:
                if samples.fault:
                    raise DataError(samples.fault)
                with explain_import_errors():
                    opened.protocol.add(samples)
                if self.probes:
                    opened.features.append(samples.features)
            except DatacompError as problem:
                self._fail(opened.task, str(problem), opened.began)
                return
            opened.digest.update(samples.digest)
            opened.seen += len(samples.keys)
            self.progress.advance(len(samples.keys))
        if opened.seen == opened.data.num_samples:
            del self.open[task]
            try:
                self._finish(opened)
            except DatacompError as problem:
                self._fail(opened.task, str(problem), opened.began)

    def _fail(self, task: EvalTask, why: str, began: float) -> None:
        log.info("%s failed: %s", task.key, why)  # the error at the end names each failure once
        self.open.pop(task.key, None)
        self.progress.advance(0, tasks_failed=1)
        self.results[task.key] = _result(task, error=why, seconds=_since(began))

    def _finish(self, opened: _Open) -> None:
        task = opened.task
        with explain_import_errors():
            outcome: TaskOutcome = opened.protocol.finish()
        value = outcome.metrics.get(task.metric) if task.metric else None
        if task.metric and value is None:
            there = ", ".join(sorted(outcome.metrics))
            raise DataError(f"{opened.data.folder} has no metric {task.metric}: it has {there}. Name one of them.")
        result = _result(
            task,
            value=value,
            metrics=outcome.metrics,
            analysis={**outcome.analysis, **self._probed(opened, outcome)},
            count=opened.data.size,
            seconds=_since(opened.began),
            data=opened.digest.hexdigest(),
        )
        with self.out.writing(f"{PREDICTIONS}/{slug(task)}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **outcome.predictions)  # pyright: ignore[reportArgumentType]
        files = self.files(task)
        kept = KeptResult(identity=self.identity, task=task, expected=self.expected, files=files, result=result)
        self.out.write(f"{TASKS}/{slug(task)}.json", kept.model_dump_json(indent=1).encode())
        self.results[task.key] = result
        self.progress.advance(0, tasks_done=1)

    def _probed(self, opened: _Open, outcome: TaskOutcome) -> dict[str, Any]:
        labels = outcome.predictions.get("labels")
        if not self.probes or labels is None:
            return {}
        found = probe(self.probes, np.concatenate(opened.features), labels, self.model.clip.device)
        if lacking := [name for name, value in found.items() if value is None]:
            log.warning("%s has no %s: none of its classes has two images", opened.task.key, " and no ".join(lacking))
        for name, value in found.items():
            if isinstance(value, dict) and "short_classes" in value:
                log.warning(
                    "%s: %s is trained on fewer images than requested in %d classes (%d in the smallest)",
                    opened.task.key,
                    name,
                    value["short_classes"],
                    value["fewest"],
                )
        return {"probes": found}

    def files(self, task: EvalTask, known: Marks | None = None) -> Marks:
        """The marks of a set's files, taken once a run, before the set is read."""
        if task.folder not in self.marks:
            folder, only = hf_cache.place(self.sets, task), None
            if task.protocol in hf_cache.PICTURES and hf_cache.is_cached(folder):
                folder, only = hf_cache.files_of(folder, task.protocol)
            self.marks[task.folder] = marks(folder, only=only, known=known, trust=self.trust)
        return self.marks[task.folder]

    def kept(self, task: EvalTask) -> TaskResult | None:
        """The result of an earlier try in this folder, if it was made from the same inputs."""
        name = f"{TASKS}/{slug(task)}.json"
        if not self.out.exists(name):
            return None
        try:
            found = KeptResult.model_validate_json(self.out.read(name))
        except (DataError, ValidationError):
            log.warning("%s is evaluated again: its stored result is from an earlier version or damaged", task.key)
            return None
        why = self._differing(found, task)
        if not why and not self.out.exists(f"{PREDICTIONS}/{slug(task)}.npz"):
            why = "its predictions are gone"
        if why:
            log.warning("%s is evaluated again: %s", task.key, why)
        return None if why else found.result

    def _differing(self, found: KeptResult, task: EvalTask) -> str:
        """Describes how a stored result differs from the current setup; empty if it does not."""
        before, now = found.identity.model_dump(), self.identity.model_dump()
        made, makes = before.pop("made_of"), now.pop("made_of")
        names = [name for name in now if before[name] != now[name]]
        names += [name for name in sorted(made.keys() | makes.keys()) if made.get(name) != makes.get(name)]
        if found.task != task or found.expected != self.expected:
            names.append("task")
        if found.result.protocol_version != protocol_of(task.protocol, task.code).version:
            names.append("protocol")
        told = [f"another {NAMES.get(name, name)}" for name in names]
        return ", ".join(told) or describe_changes(found.files, self.files(task, found.files))


def run(
    tasks: Sequence[EvalTask],
    sets: Folder,
    source: ModelSource,
    model: EvalModel,
    identity: ResultIdentity,
    *,
    expected: Expected,
    out: Folder,
    devices: Sequence[str],
    workers: int,
    trust: Trust = "content",
    progress: Progress,
    stations: ClusterWorkers | None = None,
) -> list[TaskResult]:
    """The results of all tasks, in order; a failed one has its `error`. `model` is the one of `source` on the first device.

    The stations of a cluster encode instead of the devices.
    """
    work = _Run(sets, model, identity, expected, out, trust, progress)
    work.results = {task.key: found for task in tasks if (found := work.kept(task))}
    left = [task for task in tasks if task.key not in work.results]
    progress.start(sum(task.size or 0 for task in left) if all(task.size for task in left) else 0, "images")
    if stations is not None:
        found = encode_on_cluster(work.jobs(left), source, model.exactness, stations=stations, near=out, workers=workers)
    elif len(devices) > 1:
        found = encode_apart(work.jobs(left), source, model.exactness, devices=devices, workers=workers)
    else:
        num_bytes = sum(size for task in left for size in hf_cache.place(sets, task).files().values())
        found = encode_all(work.jobs(left), model, workers=min(workers, num_bytes // BYTES_A_WORKER))
    for batch, samples in found:
        work.take(batch.task, batch.number, samples)
    return [work.results[task.key] for task in tasks]


def slug(task: EvalTask) -> str:
    """A task's key as a file name."""
    return task.key.replace("/", "-")


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


def _result(task: EvalTask, **found: object) -> TaskResult:
    version = protocol_of(task.protocol, task.code).version
    base = {"key": task.key, "name": task.name, "protocol": task.protocol, "protocol_version": version}
    return TaskResult.model_validate({**base, "main_metric": task.metric, "scored": task.is_scored, **found})
