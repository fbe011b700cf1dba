"""The training task: trains CLIP with the recipe of a scale, under torchrun."""

from __future__ import annotations

from prefect import task
from prefect.events import emit_event

from datacomp_core.artifacts import Checkpoint, ShardSet
from datacomp_core.settings import settings
from datacomp_core.training import train as training
from datacomp_core.training.nodes import this_node
from tasks import retry_policies
from tasks.reporting import publish_picture
from tasks.run_step import run, runs, store

TRAINED = "datacomp.checkpoint.created"


@task(name="train", **retry_policies.TRAINING)
@runs(training.train)
def train(spec: training.TrainSpec, shards: tuple[ShardSet, ...]) -> Checkpoint:
    """CLIP trained on shards with the fixed recipe of its scale."""
    made = run(training.train, spec, shards, device=settings().device, layout=this_node())
    folder = store().folder(made)
    if folder.exists(training.CURVE):
        publish_picture(made, folder.read(training.CURVE), "curves", suffix=".svg")
    return made


def announce(checkpoint: Checkpoint) -> None:
    """Publish an event for a new checkpoint; an automation evaluates it."""
    emit_event(
        TRAINED,
        resource={
            "prefect.resource.id": f"datacomp.{checkpoint.address}",
            "prefect.resource.name": checkpoint.name,
            "datacomp.address": checkpoint.address,
            "datacomp.scale": checkpoint.scale,
        },
        payload=checkpoint.model_dump(mode="json"),
    )
