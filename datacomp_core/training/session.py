"""One run inside open_clip_train: gives it our data, keeps the history, saves and finds the point to go on from.

A checkpoint is open_clip's own form with one more key, `batch`: the micro-batches of the epoch that are done. It is written
between two steps, when weights, optimizer and scaler stand still.
"""

from __future__ import annotations

import builtins
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

from datacomp_core.errors import DatacompError, IncompleteError
from datacomp_core.training.data import Batches, Slice, Steps, order_of
from datacomp_core.training.history import History
from datacomp_core.training.job import FINAL, HISTORY, LATEST, PREVIOUS, Job
from datacomp_core.training.samples import Reader

log = logging.getLogger(__name__)


class Session:
    """See the module. `trainer` is the module `open_clip_train.main`."""

    def __init__(self, job: Job, trainer: Any) -> None:
        self.job, self.trainer = job, trainer
        self.checkpoints = job.checkpoints
        self.original_epoch = trainer.train_one_epoch
        self.saved = time.monotonic()
        self.steps: Steps | None = None
        self.history: History | None = None

    def install(self) -> None:
        """Put ours in the place of open_clip_train's."""
        if not self.job.machine.is_cpu and not torch.cuda.is_available():
            raise DatacompError("No CUDA device can be used here, and the training was asked to run on one: give device='cpu'.")
        self.trainer.get_data = self.data
        self.trainer.train_one_epoch = self.epoch
        if self.job.machine.is_cpu:
            torch.nn.parallel.DistributedDataParallel = _OnCpu  # pyright: ignore[reportPrivateImportUsage]

    def data(self, args: Any, preprocess: Any, epoch: int = 0, tokenizer: Any = None) -> dict[str, Any]:
        """In the place of `open_clip_train.data.get_data`."""
        job, spec = self.job, self.job.spec
        mine = Slice(args.rank, args.world_size, args.accum_freq)
        shards = [(source, count) for source in job.sources for _, count in source.shards]
        order = order_of(
            spec.seed, spec.recipe.batch_size, [count for _, count in shards], [source.weight for source, _ in shards]
        )
        reader = Reader(job.sources, tokenizer, cache=f"{job.folder}/shards", cache_bytes=job.cache_bytes)
        size, mean, std = _transform(preprocess[0])
        batches = Batches(order, reader, mine, size, tolerant=spec.tolerated_corrupt > 0)
        done = epoch * spec.steps_per_epoch * mine.accumulation + position(self.checkpoints / LATEST)
        self.steps = Steps(
            batches,
            steps_per_epoch=spec.steps_per_epoch,
            epochs=spec.recipe.num_checkpoints,
            first=done,
            workers=job.loader_workers,
            device=torch.device(args.device),
        )
        self.steps.normalise_by(mean, std)
        if args.rank == 0:
            self.history = History(Path(job.folder) / HISTORY, done // mine.accumulation)
        return {"train": _Data(self.steps)}

    def epoch(self, model: Any, data: Any, loss: Any, epoch: int, optimizer: Any, scaler: Any, *rest: Any, **named: Any) -> None:
        """In the place of `train_one_epoch`, which it calls: from the saved position on, saving now and then."""
        steps = data["train"].dataloader
        args = rest[2]
        if self.history is not None:
            self.history.onward = named.get("tb_writer")
            named["tb_writer"] = self.history
        if self.job.machine.is_cpu:
            for group in optimizer.param_groups:
                group["foreach"] = True  # CUDA's default: the same bits, in fewer passes over memory
        source = _Watched(self, steps, epoch, model, optimizer, scaler, args)
        open_clip_train.train.enumerate = _enumerate_from(steps.next % steps.num_batches)  # pyright: ignore[reportAttributeAccessIssue]
        self.original_epoch(model, {"train": _Data(steps, source)}, loss, epoch, optimizer, scaler, *rest, **named)
        if self.history is not None:
            self.history.flush()
        self.saved = time.monotonic()  # open_clip saves at the end of an epoch
        self.tolerate(steps)

    def tolerate(self, steps: Steps) -> None:
        allowed = self.job.spec.tolerated_corrupt * self.job.spec.samples_seen
        if steps.replaced > allowed:
            raise IncompleteError(
                f"{steps.replaced} of the samples drawn by one process could not be read, and {allowed:.0f} are tolerated: "
                "download or reshard the shards again."
            )

    def is_due(self) -> bool:
        return time.monotonic() - self.saved >= self.job.checkpoint_seconds

    def save(self, source: _Watched, done: int) -> None:
        """Write the state after `done` micro-batches of an epoch; the one before stays until the next is whole."""
        state = {
            "epoch": source.epoch,
            "batch": done,
            "name": source.args.name,
            "state_dict": getattr(source.model, "_orig_mod", source.model).state_dict(),
            "optimizer": source.optimizer.state_dict(),
        }
        if source.scaler is not None:
            state["scaler"] = source.scaler.state_dict()
        if not math.isfinite(float(unwrapped(source.model).logit_scale)):
            raise DatacompError(f"The weights are no numbers after micro-batch {done} of epoch {source.epoch}: it diverged.")
        temporary = self.checkpoints / "tmp.pt"
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if self.history is not None:
            self.history.flush()
        latest, previous = self.checkpoints / LATEST, self.checkpoints / PREVIOUS
        if latest.exists():
            previous.unlink(missing_ok=True)
            os.link(latest, previous)
        os.replace(temporary, latest)
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Leave the last checkpoint without what only a resumption needs, in open_clip's form and as safetensors."""
        if self.history is not None:
            self.history.flush()
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
        first = self.steps.next
        batches = iter(self.steps)
        while True:
            done = self.steps.next
            between = (
                done % self.args.accum_freq == 0
                and first < done < first // self.num_batches * self.num_batches + self.num_batches
            )
            if between and self.args.rank == 0 and time.monotonic() - self.session.saved >= self.session.job.checkpoint_seconds:
                self.session.save(self, done % self.num_batches)
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


class _OnCpu(DistributedDataParallel):
    """open_clip passes `device_ids`, which DDP refuses on a CPU."""

    def __init__(self, module: Any, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


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


def position(checkpoint: Path) -> int:
    """The micro-batches done in a checkpoint's unfinished epoch; 0 where it ends an epoch or is not there."""
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get("batch", 0))


def _transform(preprocess: Any) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Size, mean and std of open_clip's training transform, if it is the one that `samples.augmented` does."""
    from torchvision.transforms import InterpolationMode, Normalize, RandomResizedCrop

    from datacomp_core.training.samples import RATIO, SCALE

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


def _enumerate_from(first: int) -> Any:
    """`enumerate` for a loop that was interrupted after `first` turns."""
    return lambda items: builtins.enumerate(items, first)
