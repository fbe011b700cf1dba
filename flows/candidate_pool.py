"""Provides the start of every experiment on a pool: the pool and its images, built, given by address or found in the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.entries.provenance import of_kind, walk
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.byod import ByodPoolSpec
from datacomp_core.pool.commonpool import HUBS, HubPoolSpec
from datacomp_core.pool.download_images import download_images
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.pool.tiny import TinyPoolSpec
from datacomp_core.settings import settings
from flows.own_pools import OWN, kind_of
from flows.parameters import Preparation
from flows.task_calls import Call
from tasks import pool as pooling
from tasks.run_step import store, stored


@dataclass(frozen=True)
class Candidates:
    """The start of every experiment on one pool."""

    pool: Pool
    shards: ShardSet


BUILDERS: dict[type, Any] = {
    TinyPoolSpec: pooling.build_pool,
    HubPoolSpec: pooling.fetch_metadata,
    ByodPoolSpec: pooling.import_pool,
    AdoptedPoolSpec: pooling.adopt_metadata,
    FolderPoolSpec: pooling.import_folder,
}
"""The task that builds each kind of pool."""
OWN_SPECS: dict[str, Any] = {"byod": ByodPoolSpec, "adopted": AdoptedPoolSpec, "folder": FolderPoolSpec}
log = logging.getLogger(__name__)


def metadata(call: Call, spec: Preparation) -> Pool:
    """Return the pool alone, without its pictures."""
    if not spec.stored_pool:
        return call(BUILDERS[type(spec.pool)], spec.pool)
    pool = stored(Pool, spec.stored_pool)
    if told := changes_of_source(settings().store_url, spec.stored_pool):
        log.warning("%s", told)
    return pool


def candidates(call: Call, spec: Preparation) -> Candidates:
    """Return the pool and its images: the given ones, those in the store for a given pool, else a download."""
    pool = metadata(call, spec)
    if spec.stored_shards:
        return Candidates(pool, given_images(spec, pool))
    lying = spec.pool if not spec.stored_pool else own_source_spec(spec.stored_pool)
    if isinstance(lying, FolderPoolSpec):
        return Candidates(pool, call(pooling.pack_folder, lying, pool))
    if isinstance(lying, AdoptedPoolSpec):
        return Candidates(pool, call(pooling.adopt_shards, lying, pool))
    if spec.stored_pool and (there := images_there(spec, pool)) is not None:
        return Candidates(pool, there)
    with pooling.reaching(spec.open_networks):
        return Candidates(pool, call(pooling.download_images, spec.images, pool))


def given_images(spec: Preparation, pool: Pool) -> ShardSet:
    """Return the images that were named. SpecError if they are images of another pool, with other uids.

    Pools of one published scale have the same uids, so the images of one are also images of another.
    """
    shards = stored(ShardSet, spec.stored_shards)
    pools = {link.address for link in of_kind(walk(store(), shards.address), Pool.kind)}
    wanted = spec.stored_pool or BUILDERS[type(spec.pool)].fn.step.address(spec.pool)
    scale = pool.scale if spec.stored_pool else spec.pool.scale
    if pools and wanted not in pools and not (shards.scale == scale and scale in HUBS):
        raise SpecError(
            f"{shards.address} has the images of {', '.join(sorted(pools))}, not of {wanted}: give that pool (--pool), or the "
            "images of this one (--shards)."
        )
    return shards


def own_pool_spec(address: str) -> AdoptedPoolSpec | FolderPoolSpec | ByodPoolSpec | None:
    """How a pool of the user's own data was made; None for any other pool."""
    record = store().record(address)
    spec = (record.spec if record else {}).get("spec", {})
    return OWN_SPECS[spec["scale"]].model_validate(spec) if spec.get("scale") in OWN_SPECS else None


def own_source_spec(address: str) -> AdoptedPoolSpec | FolderPoolSpec | None:
    """How a pool of the store was made whose images are at its source and are never fetched by url."""
    spec = own_pool_spec(address)
    return None if isinstance(spec, ByodPoolSpec) else spec


@cache
def changes_of_source(store_url: str, address: str) -> str:
    """Return what has changed at the source of a stored pool, in a sentence; the pool does not change. Checked once per process.

    DataError for an adopted pool, which stays at its source.
    """
    spec = own_pool_spec(address)
    if spec is None:
        return ""
    try:
        BUILDERS[type(spec)].fn.step.plan(spec, store=store())
    except DataError as problem:
        if isinstance(spec, AdoptedPoolSpec):
            raise
        return f"{problem} Until then the stored pool is used."
    return ""


def images_there(spec: Preparation, pool: Pool) -> ShardSet | None:
    """Return the only download of a pool in the store, unless it is exactly the one that the scale requests.

    SpecError if there are several.
    """
    wanted = download_images.address(spec.images, pool)
    records = [
        record
        for record in store().records(ShardSet.kind)
        if [given["address"] for given in record.inputs.get("pool", [])] == [pool.address] and "subset" not in record.inputs
    ]
    if not records or any(record.address == wanted for record in records):
        return None
    if len(records) > 1:
        named = ", ".join(record.address for record in records)
        raise SpecError(f"The store has several downloads of {pool.address}: choose one with --shards: {named}.")
    return store().artifact(ShardSet, records[0])


def is_own(preparation: Preparation) -> bool:
    """Return whether the pool was made from custom data, whose metadata has few columns."""
    if not preparation.stored_pool:
        return preparation.pool.scale in OWN
    return kind_of(preparation.stored_pool) in OWN
