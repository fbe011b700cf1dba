"""One run inside open_clip_train: gives it our data, keeps the history, saves and finds the point to go on from.

A checkpoint is open_clip's own form with one more key, `steps`: the optimizer steps of the epoch that are done. It is
written between two steps, when weights, optimizer and scaler stand still.
"""

from __future__ import annotations

import builtins
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip_train.train
import torch
from torch.nn.parallel import DistributedDataParallel

from datacomp_core.device import checked
from datacomp_core.errors import DatacompError
from datacomp_core.training.arguments import Machine
from datacomp_core.training.data import Batches, Slice, Steps, order_of
from datacomp_core.training.history import History, Unreadable, forget_ranks_beyond
from datacomp_core.training.job import FINAL, HISTORY, LATEST, PREVIOUS, Job
from datacomp_core.training.resume import position
from datacomp_core.training.samples import RATIO, SCALE, Reader

log = logging.getLogger(__name__)

AHEAD = 1  # micro-batches that are copied to a GPU before they are asked for


class Session:
    """See the module. `trainer` is the module `open_clip_train.main`."""

    def __init__(self, job: Job, trainer: Any) -> None:
        self.job, self.trainer = job, trainer
        self.checkpoints = job.checkpoints
        self.original_epoch = trainer.train_one_epoch
        self.saved = time.monotonic()
        self.steps: Steps | None = None
        self.history: History | None = None
        self._gauged = time.monotonic(), 0.0

    def install(self) -> None:
        """Put ours in the place of open_clip_train's."""
        if not self.job.machine.is_cpu:
            checked("cuda")
        self.trainer.get_data = self.data
        self.trainer.train_one_epoch = self.epoch
        if "wandb" in self.job.machine.report_to:
            self.trainer.wandb.init = _named_run(self.job, self.trainer.wandb.init)
        if self.job.machine.is_cpu:
            torch.nn.parallel.DistributedDataParallel = _OnCpu  # pyright: ignore[reportPrivateImportUsage]

    def data(self, args: Any, preprocess: Any, epoch: int = 0, tokenizer: Any = None) -> dict[str, Any]:
        """In the place of `open_clip_train.data.get_data`."""
        job, spec, device = self.job, self.job.spec, torch.device(args.device)
        mine = Slice(args.rank, args.world_size, args.accum_freq)
        shards = [(source, count) for source in job.sources for _, count in source.shards]
        order = order_of(
            spec.seed, spec.recipe.batch_size, [count for _, count in shards], [source.weight for source, _ in shards]
        )
        size, mean, std = _transform(preprocess[0])
        reader = Reader(
            job.sources,
            tokenizer,
            cache=f"{job.folder}/shards",
            cache_bytes=job.cache_bytes,
            scaled_to=size if spec.recipe.decoding == "scaled" else (0, 0),
        )
        batches = Batches(order, reader, mine, size, tolerant=spec.tolerated_corrupt > 0)
        done = epoch * spec.steps_per_epoch + position(self.checkpoints / LATEST)[1]
        self.steps = Steps(
            batches,
            steps_per_epoch=spec.steps_per_epoch,
            epochs=spec.recipe.num_checkpoints,
            first=done,
            workers=job.loader_workers,
            device=device,
            ahead=AHEAD if device.type == "cuda" else 0,
        )
        self.steps.normalise_by(mean, std)
        self.steps.on_unreadable = Unreadable(Path(job.folder), args.rank, done).add
        if args.rank == 0:
            forget_ranks_beyond(Path(job.folder), args.world_size, done)
            self.history = History(Path(job.folder) / HISTORY, done, self.gauges)
        return {"train": _Data(self.steps)}

    def gauges(self) -> dict[str, float]:
        """Of the time since the last call: the share spent waiting for data, and the most GPU memory that was in use."""
        assert self.steps is not None
        (began, waited), now = self._gauged, time.monotonic()
        self._gauged = now, self.steps.waited
        row = {"waiting": round((self.steps.waited - waited) / max(now - began, 1e-9), 4)}
        if not self.job.machine.is_cpu:
            row["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        return row

    def epoch(self, model: Any, data: Any, loss: Any, epoch: int, optimizer: Any, scaler: Any, *rest: Any, **named: Any) -> None:
        """In the place of `train_one_epoch`, which it calls: from the saved position on, saving now and then."""
        steps = data["train"].dataloader
        args = rest[2]
        if self.history is not None:
            self.history.onward = named.get("tb_writer")
            named["tb_writer"] = self.history
        choose_kernels(optimizer, self.job.machine)
        source = _Watched(self, steps, epoch, model, optimizer, scaler, args)
        open_clip_train.train.enumerate = _enumerate_from(steps.next % steps.num_batches)  # pyright: ignore[reportAttributeAccessIssue]
        self.original_epoch(model, {"train": _Data(steps, source)}, loss, epoch, optimizer, scaler, *rest, **named)
        self.saved = time.monotonic()  # open_clip saves at the end of an epoch

    def is_due(self) -> bool:
        return time.monotonic() - self.saved >= self.job.checkpoint_seconds

    def save(self, source: _Watched, steps: int) -> None:
        """Write the state after `steps` steps of an epoch; the one before stays until the next is whole."""
        state = {
            "epoch": source.epoch,
            "steps": steps,
            "name": source.args.name,
            "state_dict": getattr(source.model, "_orig_mod", source.model).state_dict(),
            "optimizer": source.optimizer.state_dict(),
        }
        if source.scaler is not None:
            state["scaler"] = source.scaler.state_dict()
        if not math.isfinite(float(unwrapped(source.model).logit_scale)):
            raise DatacompError(f"The weights are no numbers after step {steps} of epoch {source.epoch}: it diverged.")
        temporary = self.checkpoints / "tmp.pt"
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        latest, previous = self.checkpoints / LATEST, self.checkpoints / PREVIOUS
        if latest.exists():
            previous.unlink(missing_ok=True)
            os.link(latest, previous)
        os.replace(temporary, latest)
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Leave the last checkpoint without what only a resumption needs, in open_clip's form and as safetensors."""
        if self.history is not None:
            write_final(self.checkpoints / LATEST, Path(self.job.folder) / FINAL, self.job.name)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _Data:
    """What open_clip_train calls a DataInfo."""

    def __init__(self, steps: Steps, source: Any = None) -> None:
        self.dataloader = source or steps
        self._steps = steps

    def set_epoch(self, epoch: int) -> None:
        self._steps.set_epoch(epoch)


class _Watched:
    """The batches of one epoch, with a look at the clock between two optimizer steps."""

    def __init__(self, session: Session, steps: Steps, epoch: int, model: Any, optimizer: Any, scaler: Any, args: Any) -> None:
        self.session, self.steps, self.epoch, self.model = session, steps, epoch, model
        self.optimizer, self.scaler, self.args = optimizer, scaler, args
        self.num_batches, self.num_samples = steps.num_batches, steps.num_samples

    def __iter__(self) -> Iterator[Any]:
        for batch in self.steps:
            yield batch
            # Here again, the loop asks for the next one: what was yielded has been used.
            done = self.steps.next
            between = done % self.args.accum_freq == 0 and done % self.num_batches
            if between and self.args.rank == 0 and self.session.is_due():
                self.session.save(self, done % self.num_batches // self.args.accum_freq)


class _OnCpu(DistributedDataParallel):
    """open_clip passes `device_ids`, which DDP refuses on a CPU."""

    def __init__(self, module: Any, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


def choose_kernels(optimizer: Any, machine: Machine) -> None:
    """AdamW's implementation, also over what a checkpoint of another one brought: `foreach` gives the same bits as open_clip's
    default, in fewer passes over memory on a CPU; `fused` rounds otherwise and is asked for."""
    fused = machine.optimizer == "fused"
    for group in optimizer.param_groups:
        if fused or machine.is_cpu:
            group["foreach"], group["fused"] = not fused, fused
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(parameter.device if fused else "cpu")
    optimizer._step_supports_amp_scaling = fused


def write_final(latest: Path, folder: Path, name: str) -> None:
    """`checkpoint.pt` and `checkpoint.safetensors` from a training checkpoint; equal weights give equal bytes."""
    from safetensors.torch import save_file

    state = torch.load(latest, map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): value.contiguous() for key, value in state["state_dict"].items()}
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": state["epoch"], "name": name, "state_dict": weights}, folder / "checkpoint.pt")
    save_file(weights, folder / "checkpoint.safetensors")


def unwrapped(model: Any) -> Any:
    model = getattr(model, "_orig_mod", model)
    return getattr(model, "module", model)


def _transform(preprocess: Any) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Size, mean and std of open_clip's training transform, if it is the one that `samples.augmented` does."""
    from torchvision.transforms import InterpolationMode, Normalize, RandomResizedCrop

    first, *between, last = preprocess.transforms
    known = isinstance(first, RandomResizedCrop) and isinstance(last, Normalize) and len(between) == 2
    if (
        not known
        or (tuple(first.scale), tuple(first.ratio)) != (SCALE, RATIO)
        or first.interpolation != InterpolationMode.BICUBIC
    ):
        raise DatacompError(f"open_clip's training transform is not the one of the recipes: {preprocess}")
    height, width = first.size
    return (int(height), int(width)), tuple(map(float, last.mean)), tuple(map(float, last.std))


def _named_run(job: Job, init: Any) -> Any:
    """`wandb.init` under a name of this run's own, the same after a crash: open_clip gives the name of the folder as its id."""
    own = f"{job.spec.label()}-{hashlib.sha256(job.folder.encode()).hexdigest()[:8]}"
    return lambda **given: init(**{**given, "name": own, "id": own})


def _enumerate_from(first: int) -> Any:
    """`enumerate` for a loop that was interrupted after `first` turns."""
    return lambda items: builtins.enumerate(items, first)
