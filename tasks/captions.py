"""Tasks for captions: sets from tables, templates and models, and the policy over them."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import Captioned, Captions, Checkpoint, Embeddings, Pool, Scores, ShardSet, Subset
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.captions import choose_captions as choosing
from datacomp_core.captions import import_captions as importing
from datacomp_core.captions import template as templates
from datacomp_core.captions import translate as translating
from datacomp_core.embedding import captions as embedding
from datacomp_core.embedding import generate as generating
from datacomp_core.resharding import reshard as resharding
from datacomp_core.resharding import view as viewing
from datacomp_core.scores import compute
from datacomp_core.scores.base import Score
from datacomp_core.settings import settings
from tasks import retry_policies
from tasks.run_step import run, runs


@task(name="import captions", **retry_policies.NETWORK)
@runs(importing.import_captions)
def import_captions(spec: importing.CaptionImportSpec, pool: Pool, shards: ShardSet | None, learned: Scores | None) -> Captions:
    """A table of captions from outside, joined to the pool."""
    return run(importing.import_captions, spec, pool, shards, learned)


@task(name="template captions", **retry_policies.LOCAL)
@runs(templates.template_captions)
def template_captions(spec: templates.TemplateSpec, pool: Pool, sets: tuple[Captions, ...]) -> Captions:
    """Captions from columns and other captions."""
    return run(templates.template_captions, spec, pool, sets)


@task(name="embed captions", **retry_policies.NETWORK)
@runs(embedding.embed_captions)
def embed_captions(
    spec: embedding.CaptionEmbedSpec,
    captions: Captions,
    pool: Pool,
    embeddings: Embeddings | None,
    scorers: tuple[Checkpoint, ...],
) -> Captions:
    """Text features of a caption set, and the cosine of each caption with its image."""
    return run(embedding.embed_captions, spec, captions, pool, embeddings, scorers, device=settings().device)


@task(name="choose captions", **retry_policies.NETWORK)
@runs(choosing.choose_captions)
def choose_captions(
    spec: CaptionPolicy, pool: Pool, captions: tuple[Captions, ...], beside: tuple[Embeddings | Scores, ...]
) -> Captioned:
    """The caption of each row by a policy."""
    return run(choosing.choose_captions, spec, pool, captions, beside, workers=settings().num_workers)


@task(name="score captioned", **retry_policies.NETWORK)
@runs(compute.score_captioned)
def score_captioned(
    spec: Score,
    pool: Pool,
    embeddings: Embeddings | None,
    shards: ShardSet | None,
    scorer: Checkpoint | None,
    captioned: Captioned,
) -> Scores:
    """One computed score of every pair with its new caption."""
    own, identity = settings(), (spec, pool, embeddings, shards, scorer, captioned)
    return run(compute.score_captioned, *identity, workers=own.num_workers, device=own.device)


@task(name="reshard captions", **retry_policies.NETWORK)
@runs(resharding.reshard_captions)
def reshard_captions(
    spec: resharding.ReshardSpec,
    faces: resharding.FaceSpec | None,
    draw: CaptionPolicy,
    subset: Subset,
    shards: tuple[ShardSet, ...],
    captioned: Captioned,
    pool: Pool | None,
) -> ShardSet:
    """New shards of the chosen samples, with the captions of a policy."""
    identity = (spec, faces, draw, subset, shards, captioned, pool)
    return run(resharding.reshard_captions, *identity, workers=settings().num_workers)


@task(name="view captions", **retry_policies.NETWORK)
@runs(viewing.view_captions)
def view_captions(
    spec: resharding.ReshardSpec, draw: CaptionPolicy, subset: Subset, shards: ShardSet, captioned: Captioned
) -> ShardSet:
    """The chosen samples without a copy, with the captions of a policy."""
    return run(viewing.view_captions, spec, draw, subset, shards, captioned, workers=settings().num_workers)


@task(name="generate captions", **retry_policies.NETWORK)
@runs(generating.generate_captions)
def generate_captions(spec: generating.GenerateSpec, pool: Pool, shards: ShardSet) -> Captions:
    """Captions of the pool's images, written by a model."""
    own = settings()
    return run(generating.generate_captions, spec, pool, shards, device=own.device, server=own.caption_server)


@task(name="translate captions", **retry_policies.NETWORK)
@runs(translating.translate_captions)
def translate_captions(spec: translating.TranslateSpec, pool: Pool, captions: Captions | None) -> Captions:
    """Captions translated by a text-to-text model."""
    own = settings()
    return run(translating.translate_captions, spec, pool, captions, device=own.device, server=own.caption_server)
