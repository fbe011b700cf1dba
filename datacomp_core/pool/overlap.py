"""Finds the samples common to two realised pools: two downloads of one pool have different samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Spec, Subset
from datacomp_core.errors import DataError
from datacomp_core.pool.unique_uids import UidRanges, num_buckets, spread_of, write_subset
from datacomp_core.shards import shard_names
from datacomp_core.store import Folder, Store, step


class OverlapSpec(Spec):
    """The samples that arrived in both."""

    name: str = Field(default="intersection", min_length=1, description="Name of the subset.")

    def label(self) -> str:
        return self.name


@step("subsets", version=1)
def intersect(spec: OverlapSpec, one: ShardSet, other: ShardSet, *, out: Folder, store: Store) -> Subset:
    """`subset.npy`: the uids in both shard sets, each once. Reshard either of them by it for a fair comparison. Both sides'
    uids are on scratch disk and are compared one range at a time. DataError if they have nothing in common.
    """
    number = num_buckets(max(one.num_samples, other.num_samples))
    sides = [(folder, shard_names(folder)) for folder in (store.folder(one), store.folder(other))]
    counts = Counter[str]()
    with spread_of(*sides[0], number) as here, spread_of(*sides[1], number) as there:
        common, _ = write_subset(out, _common(here, there, counts))
    if not common:
        raise DataError(f"{one.name} and {other.name} have no sample in common: are they parts of one pool?")
    return Subset(scale=one.scale, recipe=spec.name, num_samples=common, num_unique=common, counts=dict(counts))


def _common(here: UidRanges, there: UidRanges, counts: Counter[str]) -> Iterator[uid.Uids]:
    """The uids of both, each once, a range at a time; `counts` is filled."""
    for pair in zip(here.slices(), there.slices(), strict=True):
        ours, theirs = (np.unique(rows) for rows in pair)
        common = np.intersect1d(ours, theirs, assume_unique=True)
        counts.update(in_both=len(common), only_here=len(ours) - len(common), only_there=len(theirs) - len(common))
        yield common
