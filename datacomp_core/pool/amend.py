"""Change a realised pool in place, as retries and takedowns must: more shards in its folder, or fewer samples in one.

The record is set aside first (`_amending.json`), then files change, each whole, then the record is written anew with the
digest of what is there now. A change that was killed leaves no record that lies, and is taken up by the same command.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError, StoreError
from datacomp_core.pool import ledger
from datacomp_core.pool.stats import ledger_names, read_ledger
from datacomp_core.pool.unique import num_unique, read_ahead
from datacomp_core.shards import INDEX, LEDGER, read_index
from datacomp_core.store import Folder, Store
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import MANIFEST, RECORD, Outputs, Record, manifest_bytes

ASIDE = "_amending.json"


def begin(store: Store, address: str) -> tuple[Record, ShardSet]:
    """Set the record of a shard set aside, or find the one that a killed change set aside. DataError if there is neither."""
    home, record = store.home(address), store.record(address)
    if record is not None:
        home.write(ASIDE, record.model_dump_json(indent=1).encode())
        home.remove(RECORD)
    elif home.exists(ASIDE):
        record = Record.model_validate_json(home.read(ASIDE))
    else:
        raise DataError(f"Nothing is built at {address} in {store.root}: download the pool first.")
    return record, store.artifact(ShardSet, record)


def finish(store: Store, record: Record, shards: ShardSet, changed: dict[str, FileStat]) -> ShardSet:
    """Write the record anew; `changed` are the files that were written, all others keep the hashes of before."""
    folder = store.folder(shards)
    names = [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]
    total, digest = 0, 0
    for rows in read_ahead(lambda name: read_index(folder, name), names):
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
    _publish(store, record, made, folder, changed)
    return made


def _counts(folder: Folder, shards: ShardSet) -> dict[str, int]:
    """The tally of all ledgers; a shard set without ledgers (resharded) keeps what it had."""
    if not (folder / LEDGER).files(".parquet"):
        return shards.counts
    reasons: Counter[str] = Counter()
    mismatches = 0
    for book in read_ahead(lambda name: read_ledger(folder, name), ledger_names(folder)):
        reasons.update(ledger.tally(book))
        mismatches += int((book["hash"] == "mismatch").sum())
    return {"candidates": reasons.total(), **dict(sorted(reasons.items())), "hash_mismatches": mismatches}


def _publish(store: Store, record: Record, made: ShardSet, folder: Folder, changed: dict[str, FileStat]) -> None:
    home = store.home(record.address)
    known = {path: FileStat(path, size, sha256) for path, size, sha256 in store.manifest(record).iter_rows()} | changed
    files = [
        known[path] if path in known and known[path].size == size else FileStat(path, size, "")
        for path, size in folder.files().items()
    ]
    data = manifest_bytes(files)
    outputs = Outputs(
        num_files=len(files), num_bytes=sum(file.size for file in files), manifest_sha256=hashlib.sha256(data).hexdigest()
    )
    options = {**record.options, "amended": int(record.options.get("amended", 0)) + 1}
    update = {"artifact": made.model_dump(mode="json"), "fingerprint": made.fingerprint, "outputs": outputs, "options": options}
    home.write(MANIFEST, data)
    if not home.create(RECORD, record.model_copy(update=update).model_dump_json(indent=1).encode()):
        raise StoreError(f"{record.address} was built anew while it was being changed: do it again.")
    home.remove(ASIDE)
