"""Finds what the store no longer needs: artifacts that no leaderboard entry uses, and abandoned attempts.

Nothing is removed without a request. Running attempts, anything younger than a grace period, and adopted data (which belong to
their owner) are never removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from datacomp_core.artifacts import BoardEntry
from datacomp_core.leaderboard.board.own_tasks import checkpoint_of, reports
from datacomp_core.leaderboard.entries.provenance import find, walk
from datacomp_core.store import Store
from datacomp_core.store.attempt import PREFIX, is_at_work
from datacomp_core.store.deletion import delete, delete_lost, drop_attempt, drop_leases, places_of
from datacomp_core.store.lease import latest_turns
from datacomp_core.store.listing import ask_until_equal
from datacomp_core.store.record import Record

LEASE = "the lease of a finished run that could not remove it"
UPLOAD = "a multipart upload that was neither completed nor aborted"


class Unused(BaseModel):
    """Something that may go: an artifact, an attempt that its address no longer needs or its lease, what was lost, or an upload.

    `path` is in the store: an address, a folder, or for what was lost the note about it.
    """

    model_config = ConfigDict(frozen=True)
    what: Literal["artifact", "attempt", "lease", "lost", "upload"]
    path: str
    num_bytes: int
    built: str = ""
    why: str


def unused(store: Store, *, keep: Iterable[str] = (), older_than_hours: float = 24.0) -> list[Unused]:
    """Return the artifacts that no entry (nor anything in `keep`, by address or fingerprint) uses, the largest first."""
    kept = list(keep)
    needed = ask_until_equal(lambda: _needed(store, kept), store)
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    attempts = _attempts(store, older_than_hours * 3600)
    found = [*_artifacts(store, needed, before), *attempts, *_lost(store), *_uploads(store, before)]
    return sorted(found, key=lambda one: (-one.num_bytes, one.path))


def _needed(store: Store, keep: Iterable[str]) -> set[str]:
    entries = [address for address in store.places(BoardEntry.kind) if store.certain_generations(address)]
    roots = [*entries, *[find(store, text).address for text in keep]]
    needed = _walked(store, roots)
    return needed | _walked(store, [record.address for record in reports(store) if checkpoint_of(record) in needed])


def _walked(store: Store, roots: list[str]) -> set[str]:
    """The addresses of everything that `roots` came from. StoreError if the store cannot list them reliably."""
    links = walk(store, roots) if roots else []
    for link in links:
        if link.state == "missing":
            store.certain_generations(link.address)
    return {link.address for link in links}


def _artifacts(store: Store, needed: set[str], before: datetime) -> Iterator[Unused]:
    for record in store.records():
        if record.address not in needed and _ended(record) < before:
            size = 0 if record.adopted_from else record.outputs.num_bytes
            yield Unused(
                what="artifact", path=record.address, num_bytes=size, built=record.started, why="no entry was made from it"
            )


def _ended(record: Record) -> datetime:
    return datetime.fromisoformat(record.started) + timedelta(seconds=record.seconds)


def _attempts(store: Store, silent_for: float) -> Iterator[Unused]:
    """Return unpublished attempts, and leases of published ones, that are old enough and have no running process."""
    for address in store.places():
        home = store.home(address)
        leases = latest_turns(home)
        for attempt in sorted({*home.folders(), *leases}):
            if not attempt.startswith(PREFIX) or is_at_work(home, attempt, silent_for):
                continue
            if store.is_published(address, attempt):
                if attempt in leases:
                    yield Unused(what="lease", path=f"{address}/{attempt}", num_bytes=0, why=LEASE)
            elif not store.has_older_change(address):
                files = (home / attempt).files()
                if not files and attempt not in leases and not home.is_local:  # SeaweedFS lists folders that were emptied
                    continue
                path, size = f"{address}/{attempt}", sum(files.values())
                yield Unused(what="attempt", path=path, num_bytes=size, why="an attempt that was not finished")


def _lost(store: Store) -> Iterator[Unused]:
    for lost in store.lost():
        size = 0 if lost.record.adopted_from else sum(sum(folder.files().values()) for folder in places_of(store, lost))
        why = f"the remains of {lost.address}, lost on {lost.at}: {lost.why}"
        yield Unused(what="lost", path=lost.note, num_bytes=size, built=lost.record.started, why=why)


def _uploads(store: Store, before: datetime) -> Iterator[Unused]:
    """Uploads in parts that killed processes left: a bucket keeps and bills their parts, and lists none of them."""
    for upload in store.root.uploads():
        if upload.begun < before:
            yield Unused(
                what="upload", path=upload.name, num_bytes=0, built=upload.begun.isoformat(timespec="seconds"), why=UPLOAD
            )


def remove(store: Store, found: Iterable[Unused], *, older_than_hours: float = 0.0) -> int:
    """Remove what `unused` found, unless another run has used it since; return the bytes that were freed."""
    return sum(one.num_bytes for one in found if _remove(store, one, older_than_hours * 3600))


def _remove(store: Store, one: Unused, silent_for: float) -> bool:
    if one.what == "artifact":
        record = store.record(one.path)
        return record is not None and record.started == one.built and delete(store, record)
    address, _, attempt = one.path.rpartition("/")
    if one.what == "attempt":
        return drop_attempt(store, address, attempt, silent_for=silent_for)
    if one.what == "lease":
        return drop_leases(store, address, attempt, silent_for=silent_for)
    if one.what == "lost":
        lost = [each for each in store.lost() if each.note == one.path]
        for each in lost:
            delete_lost(store, each)
        return bool(lost)
    store.root.abort_uploads(one.path, time.time() - silent_for)
    return True
