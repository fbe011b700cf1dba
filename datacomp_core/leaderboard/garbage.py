"""What the store could do without: artifacts that no leaderboard entry came from, and attempts that nobody goes on with.

Nothing is removed unless asked. What is being worked on, what is younger than a grace period, and data that were adopted (they
are somebody else's) are never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from datacomp_core.artifacts import BoardEntry
from datacomp_core.leaderboard.provenance import find, walk
from datacomp_core.store import Store
from datacomp_core.store.attempt import PREFIX, is_at_work
from datacomp_core.store.record import RECORD, Record


class Unused(BaseModel):
    """Something that may go: a whole artifact, or an attempt that its address no longer needs (`path` is in the store)."""

    model_config = ConfigDict(frozen=True)
    what: Literal["artifact", "attempt"]
    path: str
    num_bytes: int
    built: str = ""
    why: str


def unused(store: Store, *, keep: Iterable[str] = (), older_than_hours: float = 24.0) -> list[Unused]:
    """What no entry (nor anything in `keep`, by address or fingerprint) came from. Larger things first."""
    roots = [*store.addresses(BoardEntry.kind), *[find(store, text).address for text in keep]]
    needed = {link.address for link in walk(store, roots)} if roots else set[str]()
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    found = [*_artifacts(store, needed, before), *_attempts(store, before)]
    return sorted(found, key=lambda one: (-one.num_bytes, one.path))


def _artifacts(store: Store, needed: set[str], before: datetime) -> Iterator[Unused]:
    for record in store.records():
        if record.address not in needed and _ended(record) < before:
            size = 0 if record.adopted_from else record.outputs.num_bytes
            yield Unused(what="artifact", path=record.address, num_bytes=size, built=record.started, why="no entry came from it")


def _ended(record: Record) -> datetime:
    return datetime.fromisoformat(record.started) + timedelta(seconds=record.seconds)


def _attempts(store: Store, before: datetime) -> Iterator[Unused]:
    """Folders of attempts that were not published: nobody is at work in them, and they are old enough."""
    for kind in store.root.folders():
        for scale in (store.root / kind).folders():
            for name in (store.root / kind / scale).folders():
                home = store.home(f"{kind}/{scale}/{name}")
                record = store.record(f"{kind}/{scale}/{name}") if home.exists(RECORD) else None
                published = "" if record is None else str(record.artifact["data"]).rpartition("/")[2]
                left = [folder for folder in home.folders() if folder.startswith(PREFIX) and folder != published]
                for attempt in left:
                    if not is_at_work(home, attempt, before.timestamp()):
                        size = sum((home / attempt).files().values())
                        path = f"{kind}/{scale}/{name}/{attempt}"
                        yield Unused(what="attempt", path=path, num_bytes=size, why="an attempt that was not finished")


def remove(store: Store, found: Iterable[Unused]) -> int:
    """Remove what `unused` found: records first, so that nothing half gone counts as built. The bytes that were freed."""
    freed = 0
    for one in found:
        if one.what == "artifact":
            store.home(one.path).remove(RECORD)
            store.home(one.path).remove()
        else:
            home, _, attempt = one.path.rpartition("/")
            for name in store.home(home).files():
                if name.startswith(f"{attempt}.lease-"):
                    store.home(home).remove(name)
            (store.root / one.path).remove()
        freed += one.num_bytes
    return freed
