"""Tasks that turn a pool into a training set: embed, select, reshard."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import Checkpoint, Embeddings, Pool, ShardSet, Subset
from datacomp_core.embedding import encode
from datacomp_core.filters import select
from datacomp_core.resharding import reshard as resharding
from datacomp_core.settings import settings
from tasks import policies
from tasks.running import run, runs


@task(name="embed", **policies.NETWORK)
@runs(encode.embed)
def embed(spec: encode.EmbedSpec, pool: Pool, shards: ShardSet, scorer: Checkpoint) -> Embeddings:
    """Image and text features and their cosine for every row of the pool."""
    return run(encode.embed, spec, pool, shards, scorer, workers=settings().num_workers)


@task(name="select subset", **policies.NETWORK)
@runs(select.select_subset)
def select_subset(spec: select.SubsetSpec, pool: Pool, embeddings: Embeddings | None) -> Subset:
    """The filter: which uids to train on, and why the others were dropped."""
    return run(select.select_subset, spec, pool, embeddings, workers=settings().num_workers)


@task(name="reshard", **policies.NETWORK)
@runs(resharding.reshard)
def reshard(spec: resharding.ReshardSpec, subset: Subset, shards: ShardSet) -> ShardSet:
    """The chosen samples as shards of their own, in a global random order."""
    return run(resharding.reshard, spec, subset, shards, workers=settings().num_workers)
