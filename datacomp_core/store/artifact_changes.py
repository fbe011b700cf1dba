"""Changes published artifacts, for retries and takedowns: the only way in which files of a published artifact may change.
During a change the record is marked, so that no run uses it or rebuilds the artifact. The changed artifact gets a record of the
next generation. A killed change stays marked, and the same command resumes it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from datacomp_core.errors import DataError, StoreError
from datacomp_core.store import listing
from datacomp_core.store.clock import seconds_of
from datacomp_core.store.folder import FileStat, Folder
from datacomp_core.store.listing import hash_of
from datacomp_core.store.record import Record, outputs_of, record_name
from datacomp_core.store.store import Store

TAKEN_UP = "its change was killed and continues"
CLOCKS_DIFFER = 3600
"""Seconds by which the clocks of a machine and of a bucket may differ."""


@contextmanager
def exclusive_change(store: Store, address: str, what: str = "") -> Generator[Record]:
    """Be the only one to change the artifact at an address; the record of before. Call `finish` before the block ends.

    `what` is shown to others: "retry", "takedown". StoreError if another process is at it; DataError if nothing is built there.
    """
    with store.alone(address, f"{what or 'change'} it"):
        yield begin(store, address, what)


def begin(store: Store, address: str, what: str = "") -> Record:
    """Mark the record of an artifact as changing, or find the one that a killed change marked. DataError if there is neither.

    For a process that is alone at the address. StoreError if an earlier version of this system was killed in a change of it.
    """
    record = store.record(address)
    if record is not None:
        store.home(address).write(record_name(record.generation), record.marked("changing", what).to_json())
        return record
    record = store.interrupted(address)
    if record is None:
        store.refuse_interrupted(address)
        raise DataError(f"Nothing is built at {address} in {store.root}: download the pool first.")
    return record.marked("built", TAKEN_UP)


def finish(
    store: Store, record: Record, update: dict[str, Any], changed: dict[str, FileStat], removed: Iterable[str] = ()
) -> Record:
    """Publish the changed artifact: `update` are fields of the record. `changed` files were written, `removed` ones taken away.

    Every other file has to be there as before: StoreError if one is not, or if somebody else replaced the record.
    """
    files = _files(store, record, changed, set(removed))
    outputs, data = outputs_of(files)
    options = {**record.options, "amended": int(record.options.get("amended", 0)) + 1}
    made = record.model_copy(
        update={
            **update,
            "outputs": outputs,
            "options": options,
            "generation": record.generation + 1,
            "state": "built",
            "why": "",
        }
    )
    home = store.home(record.address)
    home.write(outputs.manifest, data)
    if not home.create(record_name(made.generation), made.to_json()):
        raise StoreError(f"{record.address} was rebuilt while it was being changed: run the same command again.")
    home.write(record_name(record.generation), record.marked("replaced", f"replaced by generation {made.generation}").to_json())
    return made


def _files(store: Store, record: Record, changed: dict[str, FileStat], removed: set[str]) -> list[FileStat]:
    """The files of the artifact after its change. Hashes that are not known are left empty."""
    folder = store.data(record)
    before = {path: FileStat(path, size, sha256) for path, size, sha256 in store.manifest(record).iter_rows()}
    there = listing.complete(folder, {path: stat for path, stat in changed.items() if path not in removed})
    known = before | (_written_since(folder, record, before) if record.why == TAKEN_UP else {}) | changed
    wanted = {path: there.get(path, stat.size) for path, stat in known.items() if path not in removed}
    if lost := listing.contradiction(folder, wanted):
        store.mark_lost(record, lost)
        raise StoreError(
            f"{record.address} was lost while it was being changed ({lost}): its rest is kept under _lost/. Build it again, "
            "then run the same command again."
        )
    return [
        known[path] if path in known and known[path].size == size else FileStat(path, size, "") for path, size in there.items()
    ]


def _written_since(folder: Folder, record: Record, before: dict[str, FileStat]) -> dict[str, FileStat]:
    """Files of `before` that a killed change may have written, hashed again: one of the same size would keep its old hash."""
    ended = datetime.fromisoformat(record.started).timestamp() + record.seconds - CLOCKS_DIFFER
    found: dict[str, FileStat] = {}
    for path, (size, time, _) in folder.details().items():
        if path in before and before[path].sha256 and before[path].size == size and seconds_of(time) > ended:
            found[path] = FileStat(path, size, hash_of(folder, path))
    return found
