"""`train`: makes a checkpoint from shards, with our loop over open_clip under torchrun and the recipe of a scale. The result
depends only on the spec and the shards. A killed run resumes from its last checkpoint with the same data order; its state is in
`resume/` of the attempt and is removed when the step is published.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datacomp_core.artifacts import Checkpoint, ShardSet
from datacomp_core.caption_sets import OVERLAY, SUMMARY
from datacomp_core.clip import config_of
from datacomp_core.device import default_device
from datacomp_core.errors import SpecError
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.shards import INDEX, tars_of
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.content_marks import TAR_BYTES, Marks, Trust, hash_json, marks
from datacomp_core.store.folder_request import bind_folder
from datacomp_core.training.arguments import Checkpointing, Report, RuntimeOptions, world_batch
from datacomp_core.training.cuda_decoding import require_cuda
from datacomp_core.training.curve import curves
from datacomp_core.training.job import FINAL, HISTORY, RUN, RankJob
from datacomp_core.training.launch import NoMemoryError, TorchrunLayout, launch
from datacomp_core.training.memory import device_bytes, memory_options
from datacomp_core.training.nodes import announce_run
from datacomp_core.training.preflight import TABLE, PreflightRow, preflight, table_of
from datacomp_core.training.report import report
from datacomp_core.training.resume import CheckpointUploader, drop_run_folder, run_folder
from datacomp_core.training.run_monitor import RunMonitor
from datacomp_core.training.samples import ShardSource
from datacomp_core.training.spec import TrainSpec

log = logging.getLogger(__name__)

CACHE_BYTES = 1 << 30
CURVE, RECORD = "curve.svg", "training.json"


@step("checkpoints", version=1, name=lambda spec, shards: f"{shards[-1].name}-seed{spec.seed}" if shards else spec.label())
def train(
    spec: TrainSpec,
    shards: tuple[ShardSet, ...],
    *,
    out: Folder,
    store: Store,
    processes: int = 1,
    device: str = "",
    accumulation: int = 0,
    checkpointing: Checkpointing = "auto",
    compiled: Literal["no", "torch.compile"] = "no",
    optimizer: Literal["foreach", "fused"] = "foreach",
    loader_workers: int = -1,
    threads: int = 0,
    checkpoint_seconds: float = 600.0,
    layout: TorchrunLayout | None = None,
    report_to: tuple[Report, ...] | None = None,
    progress: Progress = NO_PROGRESS,
) -> Checkpoint:
    """Write `checkpoint.pt`, `checkpoint.safetensors`, `training.json`, `history.jsonl`, `curve.svg`, ... (docs/training.md).

    SpecError if the processes do not divide the batch, DataError if a shard is missing or not what its record says,
    DatacompError with the rank's own traceback if a rank fails or the loss is not a number.
    """
    if out.exists(RECORD):  # an earlier attempt trained to the end, and could not publish it
        drop_run_folder(out)
        return _checkpoint(spec, out.read_json(RECORD))
    layout = layout or TorchrunLayout(processes=processes, threads=threads)
    machine = RuntimeOptions(
        device=kind_of(device or default_device()),
        world_size=layout.world_size,
        accumulation=accumulation or 1,
        checkpointing=checkpointing,
        compiled=compiled,
        optimizer=optimizer,
    )
    machine = machine.model_copy(update={"report_to": default_reports(machine) if report_to is None else report_to})
    _refuse(spec, shards, machine, layout)
    machines = memory_options(spec, machine, 0 if machine.is_cpu else device_bytes(), accumulation=accumulation)
    with run_folder(out) as folder:
        found, table = _checked(spec, shards, store, folder)
        job = RankJob(
            spec=spec,
            machine=machines[0],
            sources=tuple(source for source, _ in found),
            folder=str(folder),
            loader_workers=default_loader_workers(machine, layout) if loader_workers < 0 else loader_workers,
            cache_bytes=CACHE_BYTES // layout.processes,
            checkpoint_seconds=checkpoint_seconds,
        )
        started = time.monotonic()
        with CheckpointUploader(folder, out), announce_run(store, layout, folder) as others:
            job, watch = _run(job, machines, layout, progress, others)
        record = report(job, layout, tuple(item for _, item in found), table, watch, time.monotonic() - started)
        _keep(out, folder, record, table, watch)
    return _checkpoint(spec, record)


def _checkpoint(spec: TrainSpec, record: dict[str, Any]) -> Checkpoint:
    counts = {"collapsed": int(record["collapsed"]), "unreadable": int(record["unreadable"]["count"])}
    return Checkpoint(
        model=spec.recipe.model,
        seed=spec.seed,
        samples_seen=spec.samples_seen,
        steps=spec.steps,
        counts={name: count for name, count in counts.items() if count},
    )


def train_folder(spec: TrainSpec, data: tuple[str, ...], out: str, *, trust: Trust = "content", **options: Any) -> Checkpoint:
    """`train` on plain folders of shards into a plain folder; the same call resumes an interrupted one.

    `options` are those of `train`. Other nodes meet in `out`. SpecError if `out` was begun with other data, by content.
    """
    folder = Folder(out)
    if folder.exists(RECORD):
        raise SpecError(f"{folder.at(RECORD)} already exists, so this training has ended: choose another folder.")
    _require_weights(spec, len(data))
    if spec.recipe.decoding == "cuda":
        require_cuda(options.get("device") or default_device())
    inputs = {f"data {Folder(url).url}": partial(_marks, Folder(url), trust) for url in data}
    given = {"data": [Folder(url).url for url in data], "model_configuration": hash_json(config_of(spec.recipe.model))}
    bind_folder(folder, spec.model_dump(mode="json") | given, inputs)
    shards = tuple(
        ShardSet(num_samples=0, num_unique=0, num_shards=0, data=Folder(url).url, name=Folder(url).url) for url in data
    )
    return train.function(spec, shards, out=folder, store=Store(folder), **options)


def _marks(data: Folder, trust: Trust, known: Marks) -> Marks:
    """Return the marks of the tars, their index, and the file with the draw of captions."""
    beside = [name for name in data.files() if name == SUMMARY or name.startswith((f"{INDEX}/", f"{OVERLAY}/"))]
    tars = marks(data, suffix=".tar", known=known, trust=trust, whole_bytes=TAR_BYTES)
    return tars | marks(data, only=beside, known=known, trust=trust)


def _refuse(spec: TrainSpec, shards: tuple[ShardSet, ...], machine: RuntimeOptions, layout: TorchrunLayout) -> None:
    """Raise SpecError for invalid settings before anything is read."""
    world_batch(spec, machine)
    if spec.recipe.decoding == "cuda":
        require_cuda(machine.device)
    if layout.node:
        raise SpecError(f"Node {layout.node} joins a training that node 0 runs: run `datacomp node` there.")
    if not shards:
        raise SpecError("No shard set is given to train on: give at least one.")
    _require_weights(spec, len(shards))


def _require_weights(spec: TrainSpec, num_sets: int) -> None:
    if spec.data_weights and len(spec.data_weights) != num_sets:
        raise SpecError(f"{len(spec.data_weights)} data weights for {num_sets} shard sets: give one for each, or none.")


def _run(
    job: RankJob, machines: list[RuntimeOptions], layout: TorchrunLayout, progress: Progress, others: Callable[[], None]
) -> tuple[RankJob, RunMonitor]:
    """Launch, with the next way of using the GPU's memory if it does not hold the first: none of them changes a number.

    `others` raises the error of a node that cannot take part.
    """
    for number, machine in enumerate(machines):
        job = job.model_copy(update={"machine": machine})
        watch = RunMonitor(job, progress)

        def look(watch: RunMonitor = watch) -> None:
            others()
            watch()

        try:
            launch(job, layout, look)
            return job, watch
        except NoMemoryError as problem:
            if number + 1 == len(machines):
                raise
            log.warning("%s Trying %s.", problem, machines[number + 1].memory_words)
    raise AssertionError("no way to run")


def _keep(out: Folder, folder: Path, record: dict[str, Any], table: list[PreflightRow], watch: RunMonitor) -> None:
    for name in ("checkpoint.pt", "checkpoint.safetensors"):
        out.put(name, folder / FINAL / name)
    for path in sorted((folder / RUN / "tensorboard").glob("*")):
        out.put(f"tensorboard/{path.name}", path)
    for path in sorted((folder / "wandb").glob("*/*.wandb")):
        if path.parent.is_symlink():  # latest-run, the same file by another name
            continue
        out.put(f"wandb/{path.parent.name}/{path.name}", path)
    out.put(HISTORY, folder / HISTORY)
    out.put("out.log", folder / RUN / "out.log")
    out.write(CURVE, curves(watch.rows, f"{watch.job.spec.label()}: {watch.done:,} steps").encode())
    with out.writing(TABLE) as path:
        table_of(table).write_parquet(path, compression="zstd")
    out.write_json(RECORD, record)


def _checked(
    spec: TrainSpec, shards: tuple[ShardSet, ...], store: Store, folder: Path
) -> tuple[list[tuple[ShardSource, ShardSet]], list[PreflightRow]]:
    """Each shard set as a source, beside itself with the numbers that were found, and the table of all shards."""
    found: list[tuple[ShardSource, ShardSet]] = []
    table: list[PreflightRow] = []
    for item, weight in zip(shards, spec.data_weights or (1.0,) * len(shards), strict=True):
        tars = tars_of(store, item) if item.tars else None
        source, rows = preflight(item, store.folder(item), folder, weight, tars=tars)
        numbers = {"num_samples": sum(row.num_samples for row in rows), "num_shards": len(rows)}
        found.append((source, item.model_copy(update=numbers)))
        table += rows
    return found, table


def kind_of(device: str) -> str:
    """Of several devices, named with commas for embedding, only what kind they are: torchrun gives each process its own."""
    return re.split("[:,]", device)[0] if "," in device else device


def default_loader_workers(machine: RuntimeOptions, layout: TorchrunLayout) -> int:
    """None on a CPU, where decoding and training share the cores; with CUDA, the cores shared among the processes."""
    return 0 if machine.is_cpu else max(1, len(os.sched_getaffinity(0)) // layout.processes - 1)


def default_reports(machine: RuntimeOptions) -> tuple[Report, ...]:
    """TensorBoard with CUDA (on a CPU its import costs as much as a tiny training), and W&B where it is configured."""
    configured = bool(os.environ.get("WANDB_API_KEY")) and importlib.util.find_spec("wandb") is not None
    reports: list[Report] = [] if machine.is_cpu else ["tensorboard"]
    return (*reports, "wandb") if configured else tuple(reports)
