"""Runs a job on one rank: its parts, its batches from the saved position on, and the hooks of the main rank."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from datacomp_core import clip
from datacomp_core.errors import DatacompError
from datacomp_core.training.components import build
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, MicroBatchStream, order_of
from datacomp_core.training.history import History, Unreadable, forget_ranks_beyond
from datacomp_core.training.hooks import Hook, StopIfDiverged, TensorBoard, TextLog, WandB
from datacomp_core.training.job import FINAL, HISTORY, LATEST, RankJob
from datacomp_core.training.loop import TrainingLoop
from datacomp_core.training.rank_context import RankContext, join_ranks, leave_ranks, require_equal
from datacomp_core.training.samples import RATIO, SCALE, SampleReader
from datacomp_core.training.saving import Checkpoints, read_latest, write_final

log = logging.getLogger(__name__)

AHEAD = 1  # micro-batches that are copied to a GPU in advance
LOG_FORM, LOG_TIME = "%(asctime)s | %(levelname)s | %(message)s", "%Y-%m-%d,%H:%M:%S"
LOGGERS = ("datacomp_core", "open_clip")


def run(job: RankJob) -> None:
    """Train from the last checkpoint, or from the start, to the end; the main rank then writes the files to keep."""
    clip.register()
    place = join_ranks(job.machine.device)
    log_to(Path(job.folder) / job.name / "out.log" if place.is_main else None)
    log.info("Training on %s, rank %d, total %d.", place.device, place.rank, place.world_size)
    train_rank(job, place)
    if place.is_main:
        write_final(job.checkpoints / LATEST, Path(job.folder) / FINAL, job.name)
    leave_ranks()


def train_rank(job: RankJob, place: RankContext) -> None:
    parts, hooks = build(job.spec, job.machine, place), hooks_of(job, place)
    done = 0
    if (saved := read_latest(job.checkpoints)) is not None:
        parts.load(saved, job.machine)
        done = int(saved["epoch"]) * job.spec.steps_per_epoch + int(saved.get("steps", 0))
        log.info("resuming checkpoint %s (epoch %d, step %d)", job.checkpoints / LATEST, saved["epoch"], saved.get("steps", 0))
        for hook in hooks:
            if state := saved.get("hooks", {}).get(hook.name):
                hook.restore(state)
        del saved
    require_equal(place, done, "checkpoints to continue from (by their steps)")
    steps = steps_of(job, place, parts.transform, done)
    TrainingLoop(job.spec, job.machine, place, parts, steps, hooks).run()


def hooks_of(job: RankJob, place: RankContext) -> list[Hook]:
    """In the order in which they are called: a diverged step is not written down, and a checkpoint comes after its row."""
    if not place.is_main:
        return []
    folder = Path(job.folder)
    hooks: list[Hook] = [StopIfDiverged(), TextLog(), History(folder / HISTORY)]
    if "tensorboard" in job.machine.report_to:
        hooks.append(TensorBoard(folder / job.name / "tensorboard"))
    if "wandb" in job.machine.report_to:
        hooks.append(WandB(job))
    return [*hooks, Checkpoints(job.checkpoints, job.name, job.checkpoint_seconds)]


def steps_of(job: RankJob, place: RankContext, transform: Any, done: int) -> MicroBatchStream:
    """This rank's micro-batches after `done` optimizer steps; what it cannot read is written down."""
    import torch

    spec, recipe, device = job.spec, job.spec.recipe, torch.device(place.device)
    shards = [(source, count) for source in job.sources for _, count in source.shards]
    counts, weights = [count for _, count in shards], [source.weight for source, _ in shards]
    size, mean, std = _known(transform)
    reader = SampleReader(
        job.sources,
        clip.tokenizer_of(recipe.model),
        cache=f"{job.folder}/shards",
        cache_bytes=job.cache_bytes,
        scaled_to=size if recipe.decoding == "scaled" else (0, 0),
        decoding="fast" if recipe.decoding == "fast" else "full",
        jpeg_room=3 * size[0] * size[1] if recipe.decoding == "cuda" else 0,
    )
    mine = BatchSlice(place.rank, place.world_size, job.machine.accumulation)
    order = order_of(spec.seed, recipe.batch_size, counts, weights)
    steps = MicroBatchStream(
        MicroBatchDataset(order, reader, mine, size, tolerant=spec.tolerated_corrupt > 0),
        steps_per_epoch=spec.steps_per_epoch,
        epochs=recipe.num_checkpoints,
        first=done,
        workers=job.loader_workers,
        device=device,
        ahead=AHEAD if place.kind == "cuda" else 0,
    )
    steps.normalise_by(mean, std)
    steps.on_unreadable = Unreadable(Path(job.folder), place.rank, done).add
    if place.is_main:
        forget_ranks_beyond(Path(job.folder), place.world_size, done)
    return steps


def _known(transform: Any) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Size, mean and std of open_clip's training transform, if it is the one that `samples.augmented` does."""
    from torchvision.transforms import InterpolationMode, Normalize, RandomResizedCrop

    first, *between, last = transform.transforms
    known = isinstance(first, RandomResizedCrop) and isinstance(last, Normalize) and len(between) == 2
    if (
        not known
        or (tuple(first.scale), tuple(first.ratio)) != (SCALE, RATIO)
        or first.interpolation != InterpolationMode.BICUBIC
    ):
        raise DatacompError(f"open_clip's training transform is not the one of the recipes: {transform}")
    height, width = first.size
    return (int(height), int(width)), tuple(map(float, last.mean)), tuple(map(float, last.std))


def log_to(path: Path | None) -> None:
    """Messages to standard error, and to `path` on the main rank: the project's and open_clip's from INFO on, else warnings."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(LOG_FORM, LOG_TIME))
        logging.getLogger().addHandler(handler)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
