"""Flow from a pool to a training set: scores if the filter reads them, the filter, the shards."""

from __future__ import annotations

from prefect import flow

from datacomp_core.artifacts import ShardSet
from flows.chain import training_set
from flows.parameters import ExperimentSpec
from flows.task_calls import SubmittedCalls, options


@flow(name="curate", **options("{scale}-{recipe}-curate"))
def curate(spec: ExperimentSpec) -> ShardSet:
    """Embed, filter, reshard: the shards that a training reads."""
    calls = SubmittedCalls()
    [shards] = calls.results([training_set(calls.call, spec).shards])
    return shards
