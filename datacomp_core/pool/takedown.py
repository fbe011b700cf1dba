"""Take samples out: their bytes leave every shard set of the store, and what was made with them is listed and marked.

A shard is rewritten whole without them; its index, ledger and statistics follow. What was made from it (subsets, shards, scores,
checkpoints, results) gets `_takedown.json` beside its record: it cannot be unlearned, only known and made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError
from datacomp_core.parts import METADATA, part_names, scan
from datacomp_core.pool import amend, removal
from datacomp_core.shards import INDEX, LEDGER, TAKEN_DOWN, index_shard, read_index, write_index
from datacomp_core.store import Folder, Store
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import Record, now

MARK = "_takedown.json"


@dataclass
class Taken:
    """Samples removed by shard set, and the addresses of what was made with them."""

    removed: dict[str, int] = field(default_factory=dict[str, int])
    marked: list[str] = field(default_factory=list[str])


def uids_of_urls(store: Store, urls: set[str]) -> set[str]:
    """The uids that the metadata of the store's pools has for these urls."""
    found: set[str] = set()
    for record in store.records("pools"):
        data = str(record.artifact["data"])
        metadata = (Folder(data) if data.startswith("/") or "://" in data else store.root / data) / METADATA
        for part in part_names(metadata):
            found |= set(scan(metadata, part).filter(pl.col("url").is_in(list(urls))).select("uid").collect()["uid"])
    return found


def take_down(store: Store, uids: set[str]) -> Taken:
    """Remove samples from all shard sets of the store and mark what was made with them. DataError if a uid is none."""
    if not uids:
        raise DataError("There is nothing to take down: the list names no sample that a pool of this store has.")
    uid.pack(pl.Series(sorted(uids)))
    taken = Taken()
    touched = _makers(store, uids)
    for address in list(store.addresses("shards")) + _aside(store):
        removed = _from_shard_set(store, address, uids)
        if removed:
            taken.removed[address] = removed
            touched.add(address)
    taken.marked = sorted(_downstream(store, touched) | touched)
    for address in taken.marked:
        store.home(address).write_json(MARK, {"at": now(), "num_uids": len(uids), "uids": sorted(uids)})
    return taken


def _aside(store: Store) -> list[str]:
    """Shard sets whose change was killed."""
    return [address for address in store.places("shards") if store.interrupted(address) is not None]


def _makers(store: Store, uids: set[str]) -> set[str]:
    """Subsets that hold one of the uids."""
    wanted = set(uid.pack(pl.Series(sorted(uids))).tolist())
    found: set[str] = set()
    for record in store.records("subsets"):
        chosen = uid.read_subset((store.root / str(record.artifact["data"])).read("subset.npy"), record.address)
        if wanted & set(chosen.tolist()):
            found.add(record.address)
    return found


def _from_shard_set(store: Store, address: str, uids: set[str]) -> int:
    record = store.record(address)
    folder = store.folder(store.artifact(ShardSet, record)) if record else None
    if record is not None and folder is not None and not any(_hits(folder, name, uids).height for name in _indexed(folder)):
        return 0
    was_killed = record is None
    record, shards = amend.begin(store, address)
    folder = store.folder(shards)
    changed: dict[str, FileStat] = {}
    if was_killed:  # one tar may be newer than its index
        for name in _indexed(folder):
            write_index(folder, name, index_shard(folder, name).whole())
    removed = sum(_from_shard(folder, name, uids, changed) for name in _indexed(folder))
    amend.finish(store, record, shards, changed)
    return removed


def _indexed(folder: Folder) -> list[str]:
    return [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]


def _hits(folder: Folder, name: str, uids: set[str]) -> pl.DataFrame:
    return read_index(folder, name).filter(pl.col("uid").is_in(list(uids)))


def _from_shard(folder: Folder, name: str, uids: set[str], changed: dict[str, FileStat]) -> int:
    """Rewrite one shard without the samples; how many it had."""
    gone = removal.from_tar(folder, name, read_index(folder, name), uids, changed)
    if folder.exists(f"{LEDGER}/{name}.parquet"):
        removal.from_ledger(folder, name, uids, TAKEN_DOWN, changed)
    return gone


def _downstream(store: Store, touched: set[str]) -> set[str]:
    """Addresses of everything that was made from `touched`, directly or not."""
    records: list[Record] = list(store.records())
    found: set[str] = set()
    while True:
        more = {
            record.address
            for record in records
            if record.address not in found | touched
            and any(used["address"] in found | touched for given in record.inputs.values() for used in given)
        }
        if not more:
            return found
        found |= more
