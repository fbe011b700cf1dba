"""Tasks that turn a pool into a training set: embed, select, reshard."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import Captioned, Checkpoint, Embeddings, Pool, Scores, ShardSet, Subset
from datacomp_core.embedding import embed as embedding
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.resharding import mix as mixing
from datacomp_core.resharding import reshard as resharding
from datacomp_core.resharding import view as viewing
from datacomp_core.scores import compute
from datacomp_core.scores.base import Score
from datacomp_core.selection import select, select_by_captions
from datacomp_core.settings import settings
from tasks import filter_figures, retry_policies
from tasks.run_step import run, runs


@task(name="embed", **retry_policies.NETWORK)
@runs(embedding.embed)
def embed(spec: EmbedSpec, pool: Pool, shards: ShardSet, scorers: tuple[Checkpoint, ...]) -> Embeddings:
    """Compute image and text features and their cosine for every row of the pool."""
    own = settings()
    return run(embedding.embed, spec, pool, shards, scorers, workers=own.num_workers, device=own.device)


@task(name="score", **retry_policies.NETWORK)
@runs(compute.score_pool)
def score(spec: Score, pool: Pool, embeddings: Embeddings | None, shards: ShardSet | None, scorer: Checkpoint | None) -> Scores:
    """One computed score of every row, shared by all recipes that read it."""
    own = settings()
    return run(compute.score_pool, spec, pool, embeddings, shards, scorer, workers=own.num_workers, device=own.device)


@task(name="select subset", **retry_policies.NETWORK)
@runs(select.select_subset)
def select_subset(
    spec: select.SubsetSpec, pool: Pool, beside: Embeddings | tuple[Embeddings | Scores | Captioned, ...] | None
) -> Subset:
    """The filter: which uids to train on, and why the others were dropped; with images of both in the UI."""
    subset = run(select.select_subset, spec, pool, beside, workers=settings().num_workers)
    filter_figures.publish(subset, pool)
    return subset


@task(name="select subset by captions", **retry_policies.NETWORK)
@runs(select_by_captions.select_subset_by_captions)
def select_subset_by_captions(
    spec: select.SubsetSpec, pool: Pool, beside: select.Beside, named: tuple[Captioned, ...], scores: tuple[Scores, ...]
) -> Subset:
    """The filter, where it names the captions that it reads."""
    identity = (spec, pool, beside, named, scores)
    subset = run(select_by_captions.select_subset_by_captions, *identity, workers=settings().num_workers)
    filter_figures.publish(subset, pool)
    return subset


@task(name="reshard", **retry_policies.NETWORK)
@runs(resharding.reshard)
def reshard(spec: resharding.ReshardSpec, subset: Subset, shards: ShardSet) -> ShardSet:
    """New shards of the chosen samples, in a global random order."""
    return run(resharding.reshard, spec, subset, shards, workers=settings().num_workers)


@task(name="reshard faces", **retry_policies.NETWORK)
@runs(resharding.reshard_faces)
def reshard_faces(
    spec: resharding.ReshardSpec, faces: resharding.FaceSpec, subset: Subset, shards: ShardSet, pool: Pool
) -> ShardSet:
    """A reshard with faces blurred, or their boxes added to the json."""
    return run(resharding.reshard_faces, spec, faces, subset, shards, pool, workers=settings().num_workers)


@task(name="mix", **retry_policies.NETWORK)
@runs(mixing.mix)
def mix(spec: mixing.MixSpec, shards: tuple[ShardSet, ...]) -> Subset:
    """The subset that uses each sample of several shard sets according to their weights."""
    return run(mixing.mix, spec, shards, workers=settings().num_workers)


@task(name="reshard several", **retry_policies.NETWORK)
@runs(resharding.reshard_several)
def reshard_several(spec: resharding.ReshardSpec, subset: Subset, shards: tuple[ShardSet, ...]) -> ShardSet:
    """A reshard from several shard sets."""
    return run(resharding.reshard_several, spec, subset, shards, workers=settings().num_workers)


@task(name="view", **retry_policies.NETWORK)
@runs(viewing.view)
def view(spec: resharding.ReshardSpec, subset: Subset, shards: ShardSet) -> ShardSet:
    """The chosen samples without a copy, for a quick training."""
    return run(viewing.view, spec, subset, shards, workers=settings().num_workers)
