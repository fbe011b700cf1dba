"""The training task: open_clip_train under torchrun."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import Checkpoint, ShardSet
from datacomp_core.settings import settings
from datacomp_core.training import train as training
from tasks import policies
from tasks.running import run, runs


@task(name="train", **policies.TRAINING)
@runs(training.train)
def train(spec: training.TrainSpec, shards: tuple[ShardSet, ...]) -> Checkpoint:
    """CLIP trained on shards by the fixed recipe of its scale."""
    own = settings()
    return run(training.train, spec, shards, processes=own.processes, device=own.device, threads=own.num_threads)
