"""Changes a realised pool in place, for retries and takedowns: adds shards to its folder, or removes samples. The record is
marked first, then files change atomically, then a new record replaces it (`store.change`). A killed change leaves no wrong
record; run the same command again to finish it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from datacomp_core.artifacts import ShardSet
from datacomp_core.parallel import concurrently
from datacomp_core.pool import ledger
from datacomp_core.pool.fetch import stats_name
from datacomp_core.pool.stats import ledger_names, read_ledger
from datacomp_core.pool.unique_uids import num_unique
from datacomp_core.shards import INDEX, LEDGER, read_index
from datacomp_core.store import Folder, Store, change
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
    record = change.begin(store, address, what)
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


def finish(store: Store, record: Record, shards: ShardSet, changed: dict[str, FileStat]) -> ShardSet:
    """Write the record again; `changed` are the written files, all others keep their earlier hashes."""
    folder = store.folder(shards)
    names = [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]
    total, digest = 0, 0
    for rows in concurrently(lambda name: read_index(folder, name), names):
        total += rows.height
        digest = (digest + ledger.digest(rows["uid"])) % ledger.DIGEST_MODULUS
    update: dict[str, Any] = {
        "num_samples": total,
        "num_unique": num_unique(folder, names, total),
        "num_shards": len(names),
        "content": f"{digest:064x}",
        "counts": _counts(folder, shards),
        "fingerprint": fingerprint([record.fingerprint, f"{digest:064x}"]),
    }
    made = shards.model_copy(update=update)
    change.finish(store, record, {"artifact": made.model_dump(mode="json"), "fingerprint": made.fingerprint}, changed)
    return made


def _counts(folder: Folder, shards: ShardSet) -> dict[str, int]:
    """Return the tally of all ledgers; a shard set without ledgers (resharded) keeps its tally."""
    if not (folder / LEDGER).files(".parquet"):
        return shards.counts
    reasons, pictures = Counter[str](), Counter[str]()
    mismatches = 0
    for book in concurrently(lambda name: read_ledger(folder, name), ledger_names(folder)):
        reasons.update(ledger.tally(book))
        pictures.update(ledger.pictures(book))
        mismatches += int((book["hash"] == "mismatch").sum())
    return {"candidates": reasons.total(), **dict(sorted(reasons.items())), "hash_mismatches": mismatches, **pictures}
