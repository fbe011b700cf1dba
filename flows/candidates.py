"""What every experiment over one pool starts from: the pool and its images, made, named or found in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import SpecError
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.byod import ByodPoolSpec
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.pool.images import download_images
from datacomp_core.pool.tiny import TinyPoolSpec
from flows.calls import Call
from flows.own_pools import OWN, kind_of
from flows.parameters import Preparation
from tasks import pool as pooling
from tasks.running import store, stored


@dataclass(frozen=True)
class Candidates:
    """What every experiment over one pool starts from."""

    pool: Pool
    shards: ShardSet


BUILDERS: dict[type, Any] = {
    TinyPoolSpec: pooling.build_pool,
    HubPoolSpec: pooling.fetch_metadata,
    ByodPoolSpec: pooling.import_pool,
    AdoptedPoolSpec: pooling.adopt_metadata,
    FolderPoolSpec: pooling.import_folder,
}
"""What makes a pool of each kind."""


def metadata(call: Call, spec: Preparation) -> Pool:
    """The pool alone; no picture is asked for."""
    return stored(Pool, spec.stored_pool) if spec.stored_pool else call(BUILDERS[type(spec.pool)], spec.pool)


def candidates(call: Call, spec: Preparation) -> Candidates:
    """The pool and its images: those that are named, those that the store has of a named pool, else a download."""
    pool = metadata(call, spec)
    if spec.stored_shards:
        return Candidates(pool, stored(ShardSet, spec.stored_shards))
    lying = spec.pool if not spec.stored_pool else lying_spec(spec.stored_pool)
    if isinstance(lying, FolderPoolSpec):
        return Candidates(pool, call(pooling.pack_folder, lying, pool))
    if isinstance(lying, AdoptedPoolSpec):
        return Candidates(pool, call(pooling.adopt_shards, lying, pool))
    if spec.stored_pool and (there := images_there(spec, pool)) is not None:
        return Candidates(pool, there)
    with pooling.reaching(spec.open_networks):
        return Candidates(pool, call(pooling.download_images, spec.images, pool))


def lying_spec(address: str) -> AdoptedPoolSpec | FolderPoolSpec | None:
    """What a pool of the store was made as whose images lie where it lies, and are never fetched by url."""
    record = store().record(address)
    spec = (record.spec if record else {}).get("spec", {})
    kinds = {"adopted": AdoptedPoolSpec, "folder": FolderPoolSpec}
    return kinds[spec["scale"]].model_validate(spec) if spec.get("scale") in kinds else None


def images_there(spec: Preparation, pool: Pool) -> ShardSet | None:
    """The one download of a pool that the store has, unless it has just the one that the scale asks for.

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
        raise SpecError(f"The store has several downloads of {pool.address}: choose one with `shards` (--shards): {named}.")
    return store().artifact(ShardSet, records[0])


def is_own(preparation: Preparation) -> bool:
    """Whether the pool is of one's own data, whose metadata knows little."""
    if not preparation.stored_pool:
        return preparation.pool.scale in OWN
    return kind_of(preparation.stored_pool) in OWN
