"""One `train` call in a process of its own, for the tests to kill: `train_once.py STORE SPEC PROCESSES`."""

from __future__ import annotations

import sys

from training_world import NoiseSpec, noise

from datacomp_core.store import Store
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import train

if __name__ == "__main__":
    store = Store.open(sys.argv[1])
    shards = noise(NoiseSpec(), store=store)
    spec = TrainSpec.model_validate_json(sys.argv[2])
    train(spec, (shards,), store=store, device="cpu", processes=int(sys.argv[3]), threads=1, checkpoint_seconds=0)
