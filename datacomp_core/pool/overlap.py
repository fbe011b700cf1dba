"""What two realised pools have in common: two people who download one pool hold different parts of it."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Spec, Subset
from datacomp_core.errors import DataError
from datacomp_core.pool.unique import read_ahead
from datacomp_core.shards import read_index, shard_names
from datacomp_core.store import Folder, Store, step

SUBSET = "subset.npy"


class OverlapSpec(Spec):
    """The samples that arrived in both."""

    name: str = Field(default="intersection", min_length=1, description="What to call it.")

    def label(self) -> str:
        return self.name


@step("subsets", version=1)
def intersect(spec: OverlapSpec, one: ShardSet, other: ShardSet, *, out: Folder, store: Store) -> Subset:
    """`subset.npy`: the uids that lie in both shard sets, each once. Reshard either of them by it to compare like with like.

    16 bytes a sample of both are held. DataError if they have nothing in common.
    """
    ours, theirs = (_uids(store.folder(shards)) for shards in (one, other))
    common = np.intersect1d(ours, theirs, assume_unique=True)
    if not len(common):
        raise DataError(f"{one.name} and {other.name} have no sample in common: are they parts of one pool?")
    out.write(SUBSET, uid.subset_bytes(common))
    counts = {"in_both": len(common), "only_here": len(ours) - len(common), "only_there": len(theirs) - len(common)}
    return Subset(scale=one.scale, recipe=spec.name, num_samples=len(common), num_unique=len(common), counts=counts)


def _uids(shards: Folder) -> uid.Uids:
    """The uids of a shard set, sorted, each once."""
    packed = [uid.pack(rows["uid"]) for rows in read_ahead(lambda name: read_index(shards, name), shard_names(shards))]
    return np.unique(np.concatenate(packed))
