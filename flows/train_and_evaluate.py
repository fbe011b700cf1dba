"""Flow that trains on training sets in the store and scores them: for shards that were curated before, or by hand."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from datacomp_core.artifacts import Checkpoint, EvalReport, ShardSet, Spec
from flows.chain import score
from flows.parameters import EvalsetsAddress, ExperimentSpec, ScaleChoice, Scoring
from flows.task_calls import SubmittedCalls, options
from tasks import train as training
from tasks.run_step import stored

Addresses = Annotated[tuple[str, ...], Field(min_length=1, description="Addresses of shard sets (`shards/...`) in the store.")]


class TrainingSpec(Spec):
    """One training on shards of the store."""

    shards: Addresses
    scale: ScaleChoice = "tiny"
    evalsets: EvalsetsAddress = ""
    seed: int = Field(default=0, ge=0, description="Training seed: initial weights, data order, augmentation.")


@flow(name="train", **options("{scale}-train-seed{seed}"))
def train(spec: TrainingSpec) -> Checkpoint:
    """Make only a checkpoint. An event reports it, and the server's automation evaluates it."""
    shards = tuple(stored(ShardSet, address) for address in spec.shards)
    checkpoint = training.train(_scoring(spec).train, shards)
    training.announce(checkpoint)
    return checkpoint


@flow(name="train-and-evaluate", **options("{scale}-train-and-evaluate-seed{seed}"))
def train_and_evaluate(spec: TrainingSpec) -> EvalReport:
    """Train a checkpoint with the fixed recipe of a scale, and compute its zero-shot scores."""
    calls = SubmittedCalls()
    shards = tuple(stored(ShardSet, address) for address in spec.shards)
    [report] = calls.results([score(calls.call, _scoring(spec), shards)[1]])
    return report


def _scoring(spec: TrainingSpec) -> Scoring:
    return ExperimentSpec(scale=spec.scale, recipe="no_filter", seed=spec.seed, evalsets=spec.evalsets).scoring()
