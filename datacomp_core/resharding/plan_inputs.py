"""Makes a plan from inputs and a subset: looks up every input shard in the subset and counts every chosen sample. Reads
indices and ledgers (tar headers of shards without an index) and writes only scratch.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet
from datacomp_core.driver_files import Exchange, Reachable, exchange, reachable
from datacomp_core.errors import DataError, SpecError
from datacomp_core.ordered_results import results_by_number
from datacomp_core.parallel import prepared_map
from datacomp_core.progress import Progress
from datacomp_core.resharding import shard_scan
from datacomp_core.resharding.byte_ranges import InputTar
from datacomp_core.resharding.loss_report import LossLedger, LossReport, open_ledger
from datacomp_core.resharding.plan import Rows, SortBuckets, cut_shards
from datacomp_core.resharding.shard_scan import InputShard, ShardFolders
from datacomp_core.resharding.spec import ReshardSpec
from datacomp_core.shards import shard_name
from datacomp_core.store import Folder, Store, scratch

SUBSET = "subset.npy"
PLACES = "places.npy"  # beside the subset of a mix: from which shard set each chosen sample is taken
SAMPLE_IDS = "sample_ids.npy"  # the reference's name for the subset beside its shards
ACCOUNT = "accounting.json"
MISSING = "missing"
INDICES_WORTH_A_PROCESS = 64


@dataclass(frozen=True)
class ReshardPlan:
    """The output to write: `shards()` yields the rows of each output shard in order, once. `num_bytes` is approximate."""

    account: LossReport
    ledger: LossLedger
    inputs: list[InputShard]
    tars: tuple[InputTar, ...]
    num_bytes: int
    samples_per_shard: int
    buckets: SortBuckets

    @property
    def num_shards(self) -> int:
        return -(-self.account.written // self.samples_per_shard)

    def shards(self) -> Iterator[Rows]:
        return cut_shards(self.buckets.sorted(), self.account.written, self.samples_per_shard)


def whole_inputs(store: Store, shards: tuple[ShardSet, ...]) -> ShardFolders:
    """The folders of shard sets. SpecError for a view: it has no tars."""
    for item in shards:
        if item.tars:
            raise SpecError(
                f"{item.name or item.address} is a view, which has no tars to copy from: give the shards it points into."
            )
    return ShardFolders(tuple(store.folder(item) for item in shards))


def write_missing(out: Folder, ledger: LossLedger) -> None:
    """`missing/`, without what an earlier account left there."""
    names: set[str] = set()
    for number, piece in enumerate(ledger.missing()):
        buffer = io.BytesIO()
        piece.write_parquet(buffer, compression="zstd", statistics=False)
        names.add(name := f"{shard_name(number)}.parquet")
        out.write(f"{MISSING}/{name}", buffer.getvalue())
    for name in set((out / MISSING).files() if out.exists(MISSING) else ()) - names:
        out.remove(f"{MISSING}/{name}")


@contextmanager
def local_copy(subset: str) -> Generator[Path]:
    """The subset file as a local one, so that it can be mapped."""
    home, _, name = subset.rpartition("/")
    folder = Folder(home or ".")
    if folder.is_local:
        folder.open(name).close()
        yield Path(folder.at(name))
        return
    with scratch() as temporary:
        path = temporary / SUBSET
        with folder.open(name) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield path


@contextmanager
def planned(
    inputs: ShardFolders,
    shards: list[InputShard],
    subset: Path,
    where: str,
    spec: ReshardSpec,
    *,
    near: Folder | None = None,
    workers: int,
    progress: Progress,
) -> Generator[ReshardPlan]:
    """The plan, not yet checked against what the spec tolerates; `near` as in `exchange`.

    DataError if the subset (told as `where`) is empty or none.
    """
    ledger = open_ledger(uid.open_subset(subset), where, is_part=inputs.is_part)
    with SortBuckets(len(ledger.subset), len(shards), spec.seed, spec.shuffle) as buckets:
        progress.start(len(shards), "indices")
        members: dict[int, str] = {}
        with exchange(near) as shared, _placed(inputs, shared, len(ledger.subset)) as places:
            for found in _scanned(inputs, (reachable(shared, where, subset), places), shards, workers, progress):
                buckets.add(ledger.enter(found))
                members |= {found.shard.number: found.members} if found.members else {}
        tars = tuple(InputTar(inputs.folders[shard.folder], shard.name, members.get(shard.number, "")) for shard in shards)
        yield ReshardPlan(ledger.close(), ledger, shards, tars, buckets.num_bytes, spec.samples_per_shard, buckets)


@contextmanager
def _placed(inputs: ShardFolders, shared: Exchange, size: int) -> Generator[Reachable | None]:
    """From which folder each sample of the subset is taken, where workers reach it. DataError if it is of another subset."""
    if not inputs.places:
        yield None
        return
    with local_copy(inputs.places) as path:
        there = np.load(path, mmap_mode="r", allow_pickle=False)
        if there.dtype != shard_scan.PLACE or there.shape != (size,):
            raise DataError(f"{inputs.places} does not belong to this subset of {size:,} samples: mix the shard sets again.")
        yield reachable(shared, inputs.places, path)


def _scanned(
    inputs: ShardFolders, subset: tuple[Reachable, Reachable | None], shards: list[InputShard], workers: int, progress: Progress
) -> Iterator[shard_scan.ScannedShard]:
    """Yield the result of each shard in the order of the shards; one that finishes early is held back."""
    workers = min(workers, 1 + len(shards) // INDICES_WORTH_A_PROCESS)
    prepare = partial(shard_scan.wanted, inputs.folders, *subset)
    mapped = prepared_map(shard_scan.scan_shard, shards, prepare=prepare, workers=workers)
    names = {shard.number: inputs.folders[shard.folder].at(shard.name) for shard in shards}
    found = ((shard.number, one) for shard, one in mapped)
    yield from results_by_number(
        found, names, shard_scan.save, lambda path, number: shard_scan.load(path, shards[number]), progress
    )
