"""Marks live writers: small files that a writer renews while it lives.

A lease is taken by creating the file of the next turn, which only one writer can. Whether its holder is dead is seen from its
process where that can be looked up, and from three minutes of silence elsewhere: by the clock of the store, since those of the
machines may differ by hours.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datacomp_core.errors import DataError, LostProcessError, MissingFileError, StoreError
from datacomp_core.store import clock, process
from datacomp_core.store.folder import Folder

log = logging.getLogger(__name__)

RENEW_SECONDS = 20
DEAD_AFTER_SECONDS = 180
MARGIN_SECONDS = 10
SETTLE_SECONDS = 5


def content(**more: Any) -> bytes:
    """A lease of this process, unlike any other."""
    return json.dumps({**process.identity(), "renewed": time.time(), "nonce": uuid.uuid4().hex, **more}).encode()


def released_content() -> bytes:
    """Return the content of a released lease, which anyone may take over."""
    return json.dumps({"host": process.identity()["host"], "boot": "ended", "ended": True}).encode()


def file_of(stem: str, turn: int) -> str:
    return f"{stem}.lease-{turn}"


def latest_turns(home: Folder) -> dict[str, int]:
    """The latest turn of each lease directly in a folder, from its files `<stem>.lease-<turn>`."""
    found: dict[str, int] = {}
    for name in home.names():
        stem, dot, turn = name.partition(".lease-")
        if dot and turn.isdigit():
            found[stem] = max(found.get(stem, 0), int(turn))
    return found


@dataclass(frozen=True)
class Lease:
    """A lease that was read: `said` is its holder's content."""

    home: Folder
    name: str
    said: dict[str, Any]

    @property
    def is_dead(self) -> bool:
        if self.said.get("ended") or self.said.get("boot") == "ended":
            return True
        gone = process.is_gone(self.said)
        return gone if gone is not None else self.silent_seconds() > DEAD_AFTER_SECONDS

    def silent_seconds(self) -> float:
        """Since its holder last said that it lives, by the clock of the store; by ours if the store tells no times."""
        age = clock.age(self.home, self.name)
        if age is not None:
            return age
        try:
            return time.time() - float(str(self.said.get("renewed", 0)))
        except ValueError:
            return 0.0


def read(home: Folder, stem: str, turn: int) -> Lease | None:
    """A lease; None if its holder has taken it away. An unreadable lease counts as alive."""
    name = file_of(stem, turn)
    try:
        found = home.read_json(name)
    except MissingFileError:
        return None
    except DataError as problem:
        log.warning("%s", problem)
        found = None
    return Lease(home, name, found if isinstance(found, dict) else {"host": "unknown", "renewed": time.time()})


def take_turn(home: Folder, stem: str, turn: int, **more: Any) -> bool:
    """Take a turn of a lease; False if another process has it. `more` is stored in it."""
    return home.create(file_of(stem, turn), content(**more))


class HeldLease:
    """A lease of this process. After a silence in which another machine may have taken it for dead (this one was suspended, or
    could not reach the store) it is seen whether one has, before anything else is written.
    """

    def __init__(self, home: Folder, stem: str, turn: int) -> None:
        self.home, self.stem, self.turn = home, stem, turn
        self._last, self._lost, self._lock = _now(), False, threading.Lock()

    def require(self) -> None:
        """LostProcessError if another run has the next turn, or has had it and ended."""
        if not self._lost and _now() - self._last < DEAD_AFTER_SECONDS - MARGIN_SECONDS:
            return
        with self._lock:
            if not self._lost and _now() - self._last >= DEAD_AFTER_SECONDS - MARGIN_SECONDS:
                self._look()
        if self._lost:
            raise LostProcessError(
                f"Another run has taken over {self.home.at(self.stem)} because this process did not renew its lease in time: "
                "run again to use the other run's result."
            )

    def renew(self) -> None:
        self.require()
        began = _now()
        self.home.write(file_of(self.stem, self.turn), content())
        self._last = began

    def _look(self) -> None:
        """Who has just found the old lease dead takes it within moments, so we say that we live, wait, and look."""
        began = _now()
        self._lost = read(self.home, self.stem, self.turn) is None
        if not self._lost:
            self.home.write(file_of(self.stem, self.turn), content())
            time.sleep(SETTLE_SECONDS)
            self._lost = read(self.home, self.stem, self.turn + 1) is not None
            self._last = began


def _now() -> float:
    """Return seconds that also count while the machine sleeps, if the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@contextmanager
def renewed(home: Folder, stem: str, turn: int) -> Generator[HeldLease]:
    """Renew a lease that was taken, while the block lasts."""
    done, held = threading.Event(), HeldLease(home, stem, turn)

    def renew() -> None:
        while not done.wait(RENEW_SECONDS):
            try:
                held.renew()
            except Exception as problem:  # the work itself will meet a lasting fault and say so
                log.warning("could not renew %s: %s", home.at(file_of(stem, turn)), problem)

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()


def release_turn(home: Folder, stem: str, turn: int) -> None:
    """Release a lease. A failure is logged: the lease is then dead after three minutes of silence."""
    try:
        home.write(file_of(stem, turn), released_content())
    except (DataError, StoreError) as problem:
        log.warning("could not release %s: %s", home.at(file_of(stem, turn)), problem)


@contextmanager
def exclusive_lease(home: Folder, stem: str, what: str) -> Generator[None]:
    """Hold the exclusive right to do `what` at an address. StoreError if another process holds it.

    Its turns are looked up one by one and never taken away: a listing that is late must not let two in.
    """
    turn = 1
    while (holder := read(home, stem, turn)) is not None:
        if not holder.is_dead:
            who = f"process {holder.said.get('pid')} on {holder.said.get('host')}"
            raise StoreError(f"{stem} is already being changed by {who}: wait until it has finished, then run again to {what}.")
        turn += 1
    if not take_turn(home, stem, turn):
        raise StoreError(f"{stem} has just been taken by another process: run again to {what}.")
    try:
        with renewed(home, stem, turn):
            yield
    finally:
        release_turn(home, stem, turn)
