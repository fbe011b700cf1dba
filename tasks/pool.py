"""Tasks for the pool: candidates and their images."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect import task

from datacomp_core.artifacts import Embeddings, EvalSets, Pool, Scores, ShardSet, Subset
from datacomp_core.pool import adopt, byod, commonpool, image_folder, overlap, similar, tiny
from datacomp_core.pool import decontaminate as decontaminating
from datacomp_core.pool import download_columns as learning
from datacomp_core.pool import download_images as downloading
from datacomp_core.pool.estimate import estimate
from datacomp_core.settings import settings
from tasks import retry_policies
from tasks.events import StepEvent, tell
from tasks.run_step import run, runs, store

OPENED = (
    "Warning: this download may reach the private networks {}. The authors of the urls can make this machine send requests to "
    "servers there."
)
_open_networks: ContextVar[str] = ContextVar("open_networks", default="")


@contextmanager
def reaching(open_networks: str) -> Generator[None]:
    """Allow downloads in this block to reach these private networks. This is how a download runs, not part of its identity.
    Prefect passes the context of a call to the thread that runs the task.
    """
    token = _open_networks.set(open_networks)
    try:
        yield
    finally:
        _open_networks.reset(token)


@task(name="build pool", **retry_policies.LOCAL)
@runs(tiny.build_tiny_pool)
def build_pool(spec: tiny.TinyPoolSpec) -> Pool:
    """The embedded `tiny` pool: candidates and the images that its own web server will show."""
    return run(tiny.build_tiny_pool, spec)


@task(name="fetch metadata", **retry_policies.NETWORK)
@runs(commonpool.fetch_metadata)
def fetch_metadata(spec: commonpool.HubPoolSpec) -> Pool:
    """CommonPool's metadata from the hub at one commit, published only if complete."""
    return run(commonpool.fetch_metadata, spec)


@task(name="import pool", **retry_policies.NETWORK)
@runs(byod.import_pool)
def import_pool(spec: byod.ByodPoolSpec) -> Pool:
    """Your own tables of urls and captions as a pool."""
    return run(byod.import_pool, spec, workers=settings().num_workers)


@task(name="import folder", **retry_policies.NETWORK)
@runs(image_folder.import_folder)
def import_folder(spec: image_folder.FolderPoolSpec) -> Pool:
    """A folder of images as a pool."""
    return run(image_folder.import_folder, spec, workers=settings().num_workers)


@task(name="pack folder", **retry_policies.NETWORK)
@runs(image_folder.pack_folder)
def pack_folder(spec: image_folder.FolderPoolSpec, pool: Pool) -> ShardSet:
    """The images of a folder as shards, each copied once."""
    return run(image_folder.pack_folder, spec, pool, workers=settings().num_workers)


@task(name="adopt metadata", **retry_policies.NETWORK)
@runs(adopt.adopt_metadata)
def adopt_metadata(spec: adopt.AdoptedPoolSpec) -> Pool:
    """The pool of an existing download, in place."""
    return run(adopt.adopt_metadata, spec, workers=settings().num_workers)


@task(name="adopt shards", **retry_policies.NETWORK)
@runs(adopt.adopt_shards)
def adopt_shards(spec: adopt.AdoptedPoolSpec, pool: Pool) -> ShardSet:
    """The shards of an existing download, in place, with an index and a ledger."""
    return run(adopt.adopt_shards, spec, pool, workers=settings().num_workers)


@task(name="learned columns", **retry_policies.NETWORK)
@runs(learning.read_download_columns)
def read_download_columns(spec: learning.LearnedSpec, pool: Pool, shards: ShardSet) -> Scores:
    """Sizes and hashes of the images from the download, where the metadata lacks them."""
    return run(learning.read_download_columns, spec, pool, shards, workers=settings().num_workers)


@task(name="intersect", **retry_policies.NETWORK)
@runs(overlap.intersect)
def intersect(spec: overlap.OverlapSpec, one: ShardSet, other: ShardSet) -> Subset:
    """The samples that arrived in both downloads."""
    return run(overlap.intersect, spec, one, other)


@task(name="decontaminate", **retry_policies.NETWORK)
@runs(decontaminating.decontaminate)
def decontaminate(spec: decontaminating.DecontaminateSpec, shards: ShardSet, evalsets: EvalSets) -> Subset:
    """The samples of a download that do not show a test image."""
    return run(decontaminating.decontaminate, spec, shards, evalsets, workers=settings().num_workers)


@task(name="decontaminate by similarity", **retry_policies.LOCAL)
@runs(similar.decontaminate_by_similarity)
def decontaminate_by_similarity(spec: similar.SimilaritySpec, embeddings: Embeddings, evalsets: EvalSets) -> Subset:
    """The rows of a pool that do not resemble a test image, by the model that embedded them."""
    return run(similar.decontaminate_by_similarity, spec, embeddings, evalsets, device=settings().device)


@task(name="build trusted set", **retry_policies.LOCAL)
@runs(tiny.build_trusted)
def build_trusted(spec: tiny.TrustedSpec) -> ShardSet:
    """Trusted pairs that train the small scorer."""
    return run(tiny.build_trusted, spec)


@task(name="build test sets", **retry_policies.LOCAL)
@runs(tiny.build_tiny_evalsets)
def build_evalsets(spec: tiny.TinyEvalSpec) -> EvalSets:
    """The held-out zero-shot test sets of the `tiny` suite."""
    return run(tiny.build_tiny_evalsets, spec)


@task(name="download images", **retry_policies.NETWORK)
@runs(downloading.download_images)
def download_images(spec: downloading.ImageSpec, pool: Pool) -> ShardSet:
    """Images of a pool over HTTP by img2dataset, with a ledger and an index; the tiny pool's web server runs meanwhile."""
    planned = downloading.download_images.plan(spec, pool, store=store())
    if not planned.is_built and pool.scale != "tiny":
        expected = estimate(pool.num_samples, spec, settings().num_workers).sentence()
        logging.getLogger("datacomp_core.pool").info(expected)
        tell(StepEvent(planned.kind, planned.name, "expected", expected))
    if not planned.is_built and (opened := _open_networks.get()):
        tell(StepEvent(planned.kind, planned.name, "expected", OPENED.format(opened)))
    how: dict[str, Any] = {"workers": settings().num_workers, "distributor": settings().distributor}
    how["open_networks"] = _open_networks.get()
    if pool.scale != "tiny":
        return run(downloading.download_images, spec, pool, **how)
    with tiny.serve(store().folder(pool)) as proxy:
        return run(downloading.download_images, spec, pool, http_proxy=proxy, **how)
