"""Changes a realised pool in place, for retries and takedowns: adds shards to its folder, or removes samples. The record is
marked first, then files change atomically, then a new record replaces it (`store.change`). A killed change leaves no wrong
record; run the same command again to finish it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet
from datacomp_core.parallel import concurrently
from datacomp_core.pool import ledger
from datacomp_core.pool.download_shard import account_stats, stats_name
from datacomp_core.pool.shard_statistics import ShardStatistics
from datacomp_core.pool.stats import ledger_names, read_ledger
from datacomp_core.pool.unique_uids import UidRanges, num_buckets
from datacomp_core.shards import INDEX, LEDGER, read_index
from datacomp_core.store import Folder, Store, artifact_changes
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import Record
from datacomp_core.store.store import older_change

RETRY = "retry"
TAKEDOWN = "takedown"


def begin(store: Store, address: str, what: str = "") -> tuple[Record, ShardSet]:
    """Mark the record of a shard set as changing, or find one that a killed change marked. DataError if there is neither.

    The process must be alone at the address (`Store.alone`).
    """
    record = artifact_changes.begin(store, address, what)
    return record, store.artifact(ShardSet, record)


def drop_unfinished(store: Store, record: Record) -> None:
    """Remove the unfinished shards of a killed retry: their rows are still in their old ledgers. Shards in the record are
    kept.
    """
    folder = store.data(record)
    begun = [path.removesuffix(".parquet") for path in (folder / RETRY).files(".parquet")]
    unfinished = [name for name in begun if not folder.exists(stats_name(name))]
    published = set(store.manifest(record)["path"]) if unfinished else set[str]()
    for name in unfinished:
        for file in (f"{name}.tar", f"{INDEX}/{name}.parquet", f"{LEDGER}/{name}.parquet", f"{RETRY}/{name}.parquet"):
            if file not in published:
                folder.remove(file)


def left_by_older(store: Store) -> dict[str, str]:
    """Return addresses of shard sets with an unfinished change by an earlier version, with what to do."""
    waiting = (address for address in store.places("shards") if not store.generations(address))
    return {address: older_change(address) for address in waiting if store.has_older_change(address)}


def finish(store: Store, record: Record, shards: ShardSet, changed: dict[str, FileStat], what: str) -> ShardSet:
    """Write the record again after a RETRY or a TAKEDOWN; `changed` are the written files, all others keep their earlier hashes.

    The counts of a download of ours come from the statistics of its shards; of others from every index and ledger. Indexes are
    also read where uids may repeat.
    """
    folder = store.folder(shards)
    names = [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]
    of_ours = _summed_statistics(folder, names)
    only_removed = what == TAKEDOWN and record.why != artifact_changes.TAKEN_UP  # a killed retry may have added shards
    is_unique = only_removed and shards.num_unique == shards.num_samples
    indexed = None if of_ours is not None and is_unique else _summed_indexes(folder, names, shards)
    if of_ours is not None:
        total, digest, counts = of_ours.reasons["arrived"], of_ours.digest, of_ours.counts()
    else:
        assert indexed is not None
        total, digest, counts = indexed.total, indexed.digest, _counts(folder, shards)
    update: dict[str, Any] = {
        "num_samples": total,
        "num_unique": total if indexed is None else indexed.unique,
        "num_shards": len(names),
        "content": f"{digest:064x}",
        "counts": counts,
        "fingerprint": fingerprint([record.fingerprint, f"{digest:064x}"]),
    }
    made = shards.model_copy(update=update)
    artifact_changes.finish(store, record, {"artifact": made.model_dump(mode="json"), "fingerprint": made.fingerprint}, changed)
    return made


class _Indexed(NamedTuple):
    """Samples, distinct uids, and the digest of all uids in the indexes of a shard set."""

    total: int
    unique: int
    digest: int


def _summed_indexes(folder: Folder, names: Sequence[str], shards: ShardSet) -> _Indexed:
    total = digest = 0
    with UidRanges(num_buckets(shards.counts.get("candidates", shards.num_samples))) as uids:
        for rows in concurrently(lambda name: read_index(folder, name), names):
            total += rows.height
            digest = (digest + ledger.digest(rows["uid"])) % ledger.DIGEST_MODULUS
            uids.add(uid.pack(rows["uid"]))
        return _Indexed(total, sum(uid.num_unique(some) for some in uids.slices()), digest)


def _summed_statistics(folder: Folder, names: Sequence[str]) -> ShardStatistics | None:
    """The sums over a download of ours; None if a shard has no statistics, or img2dataset's own."""
    if {path.removesuffix("_stats.json") for path in folder.files("_stats.json") if "/" not in path} != set(names):
        return None
    found = ShardStatistics()
    for stats in concurrently(lambda name: folder.read_json(stats_name(name)), names):
        if "uids_digest" not in stats:
            return None
        found.add(stats)
    return found


def _counts(folder: Folder, shards: ShardSet) -> dict[str, int]:
    """Return the tally of all ledgers; a shard set without ledgers (resharded) keeps its tally."""
    if not (folder / LEDGER).files(".parquet"):
        return shards.counts
    found = ShardStatistics()
    for book in concurrently(lambda name: read_ledger(folder, name), ledger_names(folder)):
        found.add(account_stats(book))
    return found.counts()
