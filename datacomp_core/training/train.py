"""`train`: shards in, a checkpoint out, by open_clip_train under torchrun with the recipe of a scale.

What is learnt depends on the spec and the shards alone. A run that was killed goes on from its last checkpoint with the data
order it would have had; what it keeps for that lies in `resume/` of the attempt and is gone when the step is published.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datacomp_core.artifacts import Checkpoint, ShardSet
from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.settings import settings
from datacomp_core.shards import tars_of
from datacomp_core.store import Folder, Store, step
from datacomp_core.training.arguments import Checkpointing, Machine, Report, arguments, device_batch
from datacomp_core.training.history import read_history
from datacomp_core.training.job import FINAL, HISTORY, LATEST, PREVIOUS, Job
from datacomp_core.training.launch import Layout, launch
from datacomp_core.training.order import Order
from datacomp_core.training.preflight import Checked, preflight
from datacomp_core.training.samples import Source
from datacomp_core.training.spec import TrainSpec

log = logging.getLogger(__name__)

RESUME = "resume"
RUN = "run"
CHECKPOINTS = f"{RUN}/checkpoints"
COLLAPSE_MARGIN = 0.02  # of ln(batch): a loss this near to it has learnt nothing
CACHE_BYTES = 1 << 30
NO_PROGRESS = NoProgress()
NO_LAYOUT = Layout()


@step("checkpoints", version=1, name=lambda spec, shards: f"{shards[-1].name}-seed{spec.seed}" if shards else spec.label())
def train(
    spec: TrainSpec,
    shards: tuple[ShardSet, ...],
    *,
    out: Folder,
    store: Store,
    processes: int = 1,
    device: str = "",
    accumulation: int = 1,
    checkpointing: Checkpointing = "auto",
    loader_workers: int = -1,
    threads: int = 0,
    checkpoint_seconds: float = 600.0,
    layout: Layout | None = None,
    report_to: tuple[Report, ...] = (),
    progress: Progress = NO_PROGRESS,
) -> Checkpoint:
    """Write `checkpoint.pt`, `checkpoint.safetensors`, `training.json`, `history.jsonl` and `out.log`.

    SpecError if the processes do not divide the batch, DataError if a shard is missing or not what its record says,
    DatacompError with the rank's own traceback if a rank fails or the loss is no number.
    """
    layout = layout or Layout(processes=processes, threads=threads)
    machine = Machine(
        device=device or default_device(),
        world_size=layout.world_size,
        accumulation=accumulation,
        checkpointing=checkpointing,
        report_to=report_to,
    )
    device_batch(spec, machine)
    if not shards:
        raise SpecError("There is no shard set to train on: give at least one.")
    with run_folder(out) as folder:
        sources, table = _checked(spec, shards, store, folder)
        job = Job(
            spec=spec,
            machine=machine,
            sources=sources,
            folder=str(folder),
            name=RUN,
            loader_workers=default_loader_workers(machine, layout) if loader_workers < 0 else loader_workers,
            cache_bytes=CACHE_BYTES // layout.processes,
            checkpoint_seconds=checkpoint_seconds,
        )
        started = time.monotonic()
        launch(job, layout, Watch(job, out, progress))
        record = _record(job, layout, shards, table, time.monotonic() - started)
        _keep(out, folder, record)
    return Checkpoint(
        model=spec.recipe.model,
        seed=spec.seed,
        samples_seen=spec.samples_seen,
        steps=spec.steps,
        counts={"collapsed": 1} if record["collapsed"] else {},
    )


def _keep(out: Folder, folder: Path, record: dict[str, object]) -> None:
    for name in ("checkpoint.pt", "checkpoint.safetensors"):
        out.put(name, folder / FINAL / name)
    for path in sorted((folder / RUN / "tensorboard").glob("*")):
        out.put(f"tensorboard/{path.name}", path)
    out.put(HISTORY, folder / HISTORY)
    out.put("out.log", folder / RUN / "out.log")
    out.write_json("training.json", record)


@contextmanager
def run_folder(out: Folder) -> Generator[Path]:
    """The local folder of a run, found again by the next attempt; gone (also from `out`) when the block ends in peace."""
    if out.is_local:
        folder = out.path / RESUME
    else:
        folder = settings().home.resolve() / "training" / hashlib.sha256(out.url.encode()).hexdigest()[:16]
    latest = folder / CHECKPOINTS / LATEST
    latest.parent.mkdir(parents=True, exist_ok=True)
    if not out.is_local and not latest.exists() and out.exists(f"{RESUME}/{LATEST}"):
        latest.write_bytes(out.read(f"{RESUME}/{LATEST}"))
    _newest_valid(latest)
    yield folder
    shutil.rmtree(folder)
    out.remove(RESUME)


def _newest_valid(latest: Path) -> None:
    """Leave at `latest` the newest checkpoint that can be read, or none."""
    if not latest.exists():
        return
    import torch

    for candidate in (latest, latest.with_name(PREVIOUS)):
        if not candidate.exists():
            continue
        try:
            torch.load(candidate, map_location="cpu", weights_only=True)
        except Exception as problem:
            log.warning("checkpoint %s cannot be read (%s): an older one is taken", candidate, problem)
            candidate.unlink()
            continue
        if candidate != latest:
            os.replace(candidate, latest)
        return


class Watch:
    """Called while the ranks run: passes on their progress, and carries checkpoints off the machine."""

    def __init__(self, job: Job, out: Folder, progress: Progress) -> None:
        self.job, self.out, self.progress = job, out, progress
        self.history, self.latest = Path(job.folder) / HISTORY, job.checkpoints / LATEST
        self.done, self.size, self.uploaded, self.told = 0, 0, self._stamp(), time.monotonic()
        progress.start(job.spec.steps, "steps")

    def __call__(self) -> None:
        size = self.history.stat().st_size if self.history.exists() else 0
        if size != self.size:
            self.size = size
            self._tell()
        self._carry()

    def _tell(self) -> None:
        rows = read_history(self.history)
        done = int(rows[-1]["step"]) + 1 if rows else 0
        if done > self.done:
            self.progress.advance(done - self.done)
            self.done = done
            if time.monotonic() - self.told > 10:
                self.told = time.monotonic()
                row = rows[-1]
                rate = row["samples_per_second"]
                log.info("step %d of %d: loss %.3f, %.0f samples/s", done, self.job.spec.steps, row["loss"], rate)

    def _carry(self) -> None:
        if not self.out.is_local and (stamp := self._stamp()) != self.uploaded:
            copy = self.latest.with_name("upload.pt")
            copy.unlink(missing_ok=True)
            os.link(self.latest, copy)  # open_clip replaces the file: the link keeps what is being read
            self.out.put(f"{RESUME}/{LATEST}", copy)
            self.uploaded = stamp

    def _stamp(self) -> int:
        return self.latest.stat().st_mtime_ns if self.latest.exists() else 0


def _checked(
    spec: TrainSpec, shards: tuple[ShardSet, ...], store: Store, folder: Path
) -> tuple[tuple[Source, ...], list[Checked]]:
    if spec.data_weights and len(spec.data_weights) != len(shards):
        raise SpecError(f"{len(spec.data_weights)} data weights for {len(shards)} shard sets: give one for each, or none.")
    weights = spec.data_weights or (1.0,) * len(shards)
    found = [
        preflight(item, store.folder(item), folder, weight, tars=tars_of(store, item) if item.tars else None)
        for item, weight in zip(shards, weights, strict=True)
    ]
    return tuple(source for source, _ in found), [row for _, rows in found for row in rows]


def _record(job: Job, layout: Layout, shards: tuple[ShardSet, ...], table: list[Checked], seconds: float) -> dict[str, object]:
    spec = job.spec
    rows = read_history(Path(job.folder) / HISTORY)
    if not rows or int(rows[-1]["step"]) + 1 != spec.steps:
        raise DatacompError(f"The training ended without its last step {spec.steps}: run again; it goes on where it stopped.")
    last = rows[-max(1, len(rows) // 20) :]
    loss = sum(row["loss"] for row in last) / len(last)
    collapsed = loss > math.log(spec.recipe.batch_size) * (1 - COLLAPSE_MARGIN)
    if collapsed:
        log.warning("the loss ended at %.3f, about ln(batch): nothing was learnt", loss)
    sizes = np.array([row.num_samples for row in table])
    weights = np.array([source.weight for source in job.sources for _ in source.shards])
    seen = Order(spec.seed, spec.recipe.batch_size, sizes, weights).seen(spec.steps)
    cuts = np.cumsum([0, *(item.num_shards for item in shards)])
    return {
        "arguments": arguments(
            spec, job.machine, data="::".join(item.data for item in shards), logs="", name=RUN, num_sources=len(shards)
        ),
        "steps": spec.steps,
        "samples_seen": spec.samples_seen,
        "sources": [
            {
                "name": item.name,
                "fingerprint": item.fingerprint,
                "num_samples": item.num_samples,
                "samples_seen": int(seen[begin:end].sum()),
                "mean_repeats": round(float(seen[begin:end].sum() / item.num_samples), 4),
            }
            for item, begin, end in zip(shards, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ],
        "mean_repeats": round(spec.samples_seen / int(sizes.sum()), 4),
        "final_loss": loss,
        "collapsed": bool(collapsed),
        "machine": job.machine.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json") | {"threads": layout.threads_each},
        "seconds": round(seconds, 1),
        "preflight": [row.model_dump() for row in table],
    }


def default_device() -> str:
    """cuda where there is an NVIDIA driver, else cpu; asked without importing torch, which takes seconds."""
    return settings().device or ("cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu")


def default_loader_workers(machine: Machine, layout: Layout) -> int:
    """None on a CPU, where decoding and training share the cores; with CUDA, the cores shared among the processes."""
    return 0 if machine.is_cpu else max(1, len(os.sched_getaffinity(0)) // layout.processes - 1)
