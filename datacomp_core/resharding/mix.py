"""Makes a subset from several shard sets with weights: the mix of custom data and a pool's (BYOD).

The subset is a multiset: a weight of 2 takes every sample twice, 0.3 three of ten by a hash of seed and uid, 1.5 every sample
once and half of them again. `reshard_several` of the same shard sets writes it. A uid of several shard sets is one pair in each
of them: every set gives its own. Uids are sorted on scratch disk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Spec, Subset
from datacomp_core.errors import DataError, SpecError
from datacomp_core.parallel import prepared_map
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.resharding.plan import ROW, shuffle_keys
from datacomp_core.resharding.plan_inputs import INDICES_WORTH_A_PROCESS, PLACES, SUBSET
from datacomp_core.resharding.shard_scan import IS_UID, PLACE, InputShard, ShardFolders, input_shards, samples_of
from datacomp_core.store import Folder, Store, step

BUCKETS = 256
PLACED = np.dtype([("f0", "u8"), ("f1", "u8"), ("place", PLACE)])


class MixSpec(Spec):
    """How often each sample of each shard set is taken."""

    weights: tuple[float, ...] = Field(min_length=1, description="Copies of each sample, per shard set, in their order.")
    seed: int = Field(default=0, ge=0, description="Seed of the draw for a fractional weight.")

    @field_validator("weights")
    @classmethod
    def _are_numbers(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise SpecError(f"The weights of a mix must be numbers of 0 or more: {', '.join(f'{one:g}' for one in weights)}.")
        return weights

    def label(self) -> str:
        return "mix-" + "-".join(f"{weight:g}" for weight in self.weights)


class _Chosen(NamedTuple):
    uids: uid.Uids
    without_uid: int


class Mixed(NamedTuple):
    """How many samples a mix has, and why others are not in it."""

    num_samples: int
    num_unique: int
    counts: dict[str, int]


@step("subsets", version=2)  # 2: each shard set gives its own pair of a uid that several have
def mix(
    spec: MixSpec,
    shards: tuple[ShardSet, ...],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """`subset.npy`, and `places.npy`: from which of the shard sets each of its samples is taken.

    SpecError if weights and shard sets are not as many, or a weight is negative; DataError if nothing is chosen.
    """
    made = mix_folders(spec, tuple(store.folder(item) for item in shards), out, workers=workers, progress=progress)
    return Subset(
        scale=shards[0].scale,
        recipe=spec.label(),
        num_samples=made.num_samples,
        num_unique=made.num_unique,
        counts=made.counts,
    )


def mix_folders(
    spec: MixSpec,
    folders: tuple[Folder, ...],
    out: Folder,
    *,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Mixed:
    """`mix` for plain folders of shards."""
    if len(spec.weights) != len(folders):
        raise SpecError(f"{len(spec.weights)} weights for {len(folders)} shard sets: give one for each.")
    inputs = ShardFolders(folders)
    listing = input_shards(inputs)
    progress.start(len(listing), "indices")
    counts = {f"input_{number + 1}": 0 for number in range(len(folders))} | {"without_uid": 0}
    with ExitStack() as stack:
        buckets: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(BUCKETS)]
        some = min(workers, 1 + len(listing) // INDICES_WORTH_A_PROCESS)
        for shard, chosen in prepared_map(_choose, listing, prepare=partial(_prepared, inputs, spec), workers=some):
            counts[f"input_{shard.folder + 1}"] += len(chosen.uids)
            counts["without_uid"] += chosen.without_uid
            placed = np.empty(len(chosen.uids), PLACED)
            placed["f0"], placed["f1"], placed["place"] = chosen.uids["f0"], chosen.uids["f1"], shard.folder
            bucket = placed["f0"] >> np.uint64(56)
            for number in np.unique(bucket).tolist():
                placed[bucket == number].tofile(buckets[number])
            progress.advance()
        total = sum(counts[f"input_{number + 1}"] for number in range(len(folders)))
        if not total:
            raise DataError("The mix is empty: no weight is above zero, or no shard set has samples with uids.")
        num_unique = 0
        with out.writing(SUBSET) as path, out.writing(PLACES) as beside:
            made = np.lib.format.open_memmap(path, "w+", uid.DTYPE, (total,), version=(1, 0))
            places = np.lib.format.open_memmap(beside, "w+", PLACE, (total,), version=(1, 0))
            end = 0
            for piece in _sorted(buckets):
                until = end + len(piece)
                made["f0"][end:until], made["f1"][end:until], places[end:until] = piece["f0"], piece["f1"], piece["place"]
                num_unique += uid.num_unique(made[end:until])
                end = until
            made.flush()
            places.flush()
    return Mixed(total, num_unique, counts)


def _sorted(buckets: list[IO[bytes]]) -> Iterator[Any]:
    """PLACED of one bucket after another, by uid and then by place."""
    for file in buckets:
        file.seek(0)
        rows = np.fromfile(file, PLACED)
        yield rows[np.lexsort((rows["place"], rows["f1"], rows["f0"]))]


def _prepared(inputs: ShardFolders, spec: MixSpec) -> tuple[ShardFolders, MixSpec]:
    return inputs, spec


def _choose(prepared: tuple[ShardFolders, MixSpec], shard: InputShard) -> _Chosen:
    """The uids of one shard, each as often as its weight says. DataError if the shard is damaged."""
    inputs, spec = prepared
    rows, damage = samples_of(inputs.folders[shard.folder], shard)
    if damage:
        raise DataError(
            f"Shard {inputs.folders[shard.folder].at(shard.name)}.tar cannot be mixed in: {damage}; download it again."
        )
    named = rows.filter(rows["uid"].str.contains(IS_UID).fill_null(value=False))
    found = np.zeros(named.height, ROW)
    packed = uid.pack(named["uid"])
    found["f0"], found["f1"] = packed["f0"], packed["f1"]
    copies, rest = divmod(spec.weights[shard.folder], 1)
    drawn = (shuffle_keys(found, spec.seed) >> np.uint64(11)) < rest * 2**53
    return _Chosen(np.repeat(packed, int(copies) + drawn), rows.height - named.height)
