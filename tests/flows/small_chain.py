"""The whole chain, smaller still: the real steps and tasks on a pool of a few hundred pairs, with a training of seconds.

Run as a script it is one process without a server, made to be killed: `python small_chain.py` works in the store of the
settings and prints the addresses of what it made.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from datacomp_core.artifacts import BoardEntry
from datacomp_core.pool.download_images import ImageSpec
from datacomp_core.pool.tiny import TinyPoolSpec
from datacomp_core.resharding.reshard import ReshardSpec
from datacomp_core.scales import SCALES
from datacomp_core.training.train import TrainSpec
from flows.candidate_pool import candidates
from flows.chain import curate, train_and_evaluate
from flows.parameters import ExperimentSpec
from flows.task_calls import Call

RECIPES = ("no_filter", "basic_and_clip_tiny")


def small_training(samples: int, seed: int = 0) -> TrainSpec:
    update = {"name": "custom", "train_num_samples": samples, "num_checkpoints": 2, "batch_size": 64, "warmup": 2}
    return TrainSpec(recipe=SCALES["tiny"].model_copy(update=update), seed=seed)


def small_chain(call: Call) -> list[Any]:
    """Two recipes over one small pool; whatever `call` returns for their entries."""
    spec = ExperimentSpec()
    preparation = spec.preparation().model_copy(
        update={
            "pool": TinyPoolSpec(num_pairs=600, num_parts=2),
            "images": ImageSpec(image_size=64, samples_per_shard=100, timeout_seconds=30, exif="drop"),
            "scorer": small_training(1024),
        }
    )
    found = candidates(call, preparation)
    entries: list[Any] = []
    for recipe in RECIPES:
        chosen = spec.model_copy(update={"recipe": recipe})
        curation = chosen.curation().model_copy(update={"reshard": ReshardSpec(samples_per_shard=64)})
        curated = curate(call, curation, preparation, found)
        scoring = chosen.scoring().model_copy(update={"train": small_training(512)})
        entries.append(train_and_evaluate(call, scoring, curated).entry)
    return entries


def at_once(task: Any, /, *identity: Any, **options: Any) -> Any:
    """Call a task's function here and now, without a Prefect run."""
    return task.fn(*identity, **options)


if __name__ == "__main__":
    made: list[BoardEntry] = small_chain(at_once)
    sys.stdout.write(json.dumps([entry.address for entry in made]) + "\n")
