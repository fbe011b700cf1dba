"""One `train` call in a process of its own, for the tests to kill: `train_once.py STORE SPEC [LAYOUT]` (its last two as JSON).

A layout whose `node` is not 0 joins the training of node 0. Without one it is what the settings name.
"""

from __future__ import annotations

import os
import sys

from training_world import NoiseSpec, noise

from datacomp_core.store import Store
from datacomp_core.training.launch import TorchrunLayout
from datacomp_core.training.nodes import join, this_node
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import train

if __name__ == "__main__":
    store = Store.open(sys.argv[1])
    layout = TorchrunLayout.model_validate_json(sys.argv[3]) if len(sys.argv) > 3 else this_node()
    if layout.node:
        join(store, layout)
    else:
        spec = TrainSpec.model_validate_json(sys.argv[2])
        train(
            spec,
            (noise(NoiseSpec(drawn=bool(os.environ.get("NOISE_DRAWN"))), store=store),),
            store=store,
            device="cpu",
            layout=layout,
            checkpoint_seconds=0,
            loader_workers=int(os.environ.get("LOADER_WORKERS", "-1")),
        )
