"""Flow that makes the pool, its images and their scores, which every filter starts from."""

from __future__ import annotations

from prefect import flow

from datacomp_core.artifacts import Embeddings, Pool, ShardSet
from flows.candidate_pool import candidates
from flows.filter_inputs import scores
from flows.parameters import Preparation
from flows.task_calls import SubmittedCalls, options


@flow(name="prepare-pool", **options("{scale}-prepare-pool"))
def prepare_pool(spec: Preparation) -> tuple[Pool, ShardSet, Embeddings | None]:
    """Metadata, images with a ledger and an index, and scores if a scorer or an embedding model is given."""
    calls = SubmittedCalls()
    found = candidates(calls.call, spec)
    scored = [scores(calls.call, spec, found)] if spec.embeds else []
    pool, shards, *embeddings = calls.results([found.pool, found.shards, *scored])
    return pool, shards, embeddings[0] if embeddings else None
