"""Subset x ShardSet -> ShardSet: plan from the indices, then copy byte ranges; account for every chosen sample.

The output is the same bytes for the same inputs, spec and seed, whatever the number of workers. `<shard>_stats.json` is
written last of a shard: one that has it is finished, so an interrupted reshard goes on with the others.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.errors import DataError
from datacomp_core.parallel import prepared_map, process_map
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.resharding import scan
from datacomp_core.resharding.account import Accounting, Ledger, open_ledger
from datacomp_core.resharding.copy import Copy, copy_shard
from datacomp_core.resharding.plan import Buckets, Rows, cut
from datacomp_core.resharding.spec import ReshardSpec, reshard_of
from datacomp_core.shards import shard_name
from datacomp_core.store import Folder, Store, scratch, step
from datacomp_core.store.fingerprint import canonical, fingerprint
from datacomp_core.store.folder import hash_file

log = logging.getLogger(__name__)

__all__ = ["Accounting", "ReshardSpec", "reshard", "reshard_folders", "reshard_of"]

SUBSET = "subset.npy"
SAMPLE_IDS = "sample_ids.npy"  # the reference's name for the subset beside its shards
IDENTITY = "reshard.json"
ACCOUNT = "accounting.json"
MISSING = "missing"
INDICES_WORTH_A_PROCESS = 64
SAMPLES_WORTH_A_PROCESS = 20_000


@step("shards", version=1, name=lambda spec, subset, shards: subset.name or subset.recipe)
def reshard(
    spec: ReshardSpec,
    subset: Subset,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NoProgress(),  # noqa: B008
) -> ShardSet:
    """The chosen samples as `<shard>.tar` with `index/`, `<shard>_stats.json`, `sample_ids.npy` and the account.

    Samples are keyed `<uid>-<copy>`. IncompleteError if more is missing than the spec tolerates.
    """
    account = reshard_folders(
        store.folder(shards), f"{store.folder(subset)}/{SUBSET}", out, spec, workers=workers, progress=progress, record="files"
    )
    return ShardSet(
        scale=shards.scale,
        num_samples=account.written,
        num_unique=account.written_unique,
        num_shards=_num_shards(account, spec),
        counts=account.counts(),
    )


def reshard_folders(
    shards: Folder,
    subset: str,
    out: Folder,
    spec: ReshardSpec,
    *,
    workers: int = 1,
    progress: Progress = NoProgress(),  # noqa: B008
    record: Literal["files", "nothing"] = "nothing",
) -> Accounting:
    """`reshard` without a store: works on the original tooling's folders, local or in a bucket.

    `subset` is the url or path of a subset file. DataError if `out` holds something else than an unfinished or finished
    reshard of the same inputs. `record="files"` notes sizes and hashes of what is written in `out`'s journal.
    """
    with _local(subset) as chosen:
        inputs = scan.input_shards(shards)
        ledger = open_ledger(uid.open_subset(chosen), subset)
        _claim(out, _identity(spec, chosen, inputs))
        with Buckets(len(ledger.subset), len(inputs), spec.seed, spec.shuffle) as plan:
            progress.start(len(inputs), "indices")
            for rows in _scan(shards, chosen, inputs, ledger, workers, progress):
                plan.add(rows)
            account = ledger.close()
            _write_missing(out, ledger)
            account.check(spec, shards.url)
            with out.writing(SAMPLE_IDS) as path:
                shutil.copyfile(chosen, path)
            progress.start(account.written, "samples")
            jobs = _jobs(shards, out, inputs, cut(plan.sorted(), account.written, spec.samples_per_shard), progress, record)
            for _, copied in process_map(copy_shard, jobs, workers=min(workers, 1 + account.written // SAMPLES_WORTH_A_PROCESS)):
                for file in copied.files:
                    out.note(file)
                progress.advance(copied.samples)
        out.write_json(ACCOUNT, asdict(account))
    return account


@contextmanager
def _local(subset: str) -> Generator[Path]:
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


def _identity(spec: ReshardSpec, subset: Path, inputs: list[scan.InputShard]) -> dict[str, Any]:
    listing = hashlib.sha256("".join(f"{shard.name} {shard.size}\n" for shard in inputs).encode()).hexdigest()
    return {"spec": canonical(spec), "subset_sha256": hash_file(subset), "num_shards": len(inputs), "shards_listing": listing}


def _claim(out: Folder, identity: dict[str, Any]) -> None:
    """Mark `out` as the place of this reshard, or see that it is; without shards in it, it is anybody's."""
    claimed = out.exists(IDENTITY)
    if claimed and fingerprint(out.read_json(IDENTITY)) == fingerprint(identity):
        return
    if any(name.endswith(".tar") for name in out.files()):
        whose = "holds a reshard of another subset, spec or pool" if claimed else "holds shards that no reshard of ours made"
        raise DataError(f"{out} {whose}: choose an empty folder, or remove it.")
    out.write_json(IDENTITY, identity)


def _scan(
    shards: Folder, subset: Path, inputs: list[scan.InputShard], ledger: Ledger, workers: int, progress: Progress
) -> Iterator[Rows]:
    """The rows of each shard, in the order of the shards: a shard that is done before its turn waits."""
    early: dict[int, scan.Scanned] = {}
    turn = 0
    workers = min(workers, 1 + len(inputs) // INDICES_WORTH_A_PROCESS)
    found = prepared_map(scan.scan_shard, inputs, prepare=partial(scan.wanted, shards, subset), workers=workers)
    for shard, scanned in found:
        early[shard.number] = scanned
        progress.advance()
        while turn in early:
            yield ledger.enter(early.pop(turn))
            turn += 1
    assert not early, "a shard was not scanned"


def _write_missing(out: Folder, ledger: Ledger) -> None:
    out.remove(MISSING)
    for number, piece in enumerate(ledger.missing()):
        buffer = io.BytesIO()
        piece.write_parquet(buffer, compression="zstd", statistics=False)
        out.write(f"{MISSING}/{shard_name(number)}.parquet", buffer.getvalue())


def _jobs(
    shards: Folder,
    out: Folder,
    inputs: list[scan.InputShard],
    plan: Iterator[Rows],
    progress: Progress,
    record: Literal["files", "nothing"],
) -> Iterator[Copy]:
    """What is still to be written; each job knows only the input shards it reads."""
    done = {name.removesuffix("_stats.json") for name in out.files("_stats.json")}
    for number, rows in enumerate(plan):
        if shard_name(number) in done:
            progress.advance(len(rows))
            continue
        used, local = np.unique(rows["shard"], return_inverse=True)
        mine = rows.copy()
        mine["shard"] = local
        yield Copy(shard_name(number), mine, shards, tuple(inputs[shard].name for shard in used), out, record)


def _num_shards(account: Accounting, spec: ReshardSpec) -> int:
    return -(-account.written // spec.samples_per_shard)
