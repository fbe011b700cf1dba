"""Manages one attempt at building one address: a private folder, a lease that identifies its owner, and takeover from dead
owners. A killed attempt leaves its folder and a lease that is no longer renewed. The next attempt at the same address claims
that folder and resumes in it: its files are complete (see `folder`), so a step skips what it finds. Two live attempts never
share a folder, and a folder in a record is never resumed.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from datacomp_core.errors import DataError, LostProcessError, StoreError
from datacomp_core.store import lease
from datacomp_core.store.folder import Folder

log = logging.getLogger(__name__)

PREFIX = "attempt-"
SCRATCH = "scratch"
"""Of an attempt: what a driver and its workers share (`exchange`)."""
DOOMED = "doomed"


@dataclass(frozen=True)
class Attempt:
    """`name` is the folder below the address; `turn` counts who has worked in it, from 1."""

    name: str
    turn: int
    out: Folder
    home: Folder

    def check_still_ours(self) -> None:
        """LostProcessError if another run took this attempt over, because this process gave no sign of life for too long."""
        self.out.require_ours()
        if lease.read(self.home, self.name, self.turn + 1) is not None:
            raise LostProcessError(
                f"Another run has taken over {self.home.at(self.name)} because this process did not renew its lease in time: "
                "run again to use the other run's result."
            )


def _nobody(name: str) -> bool:
    return False


def take_attempt(home: Folder, is_published: Callable[[str], bool] = _nobody) -> Attempt:
    """The folder of a dead try that `is_published` does not know, else a new one."""
    for name, turn in sorted(lease.latest_turns(home).items()):
        if not name.startswith(PREFIX) or is_published(name):
            continue
        holder = lease.read(home, name, turn)
        if holder is None or holder.said.get(DOOMED) or not holder.is_dead or not lease.take_turn(home, name, turn + 1):
            continue
        if is_published(name):  # between the two looks it ended well, and its leases were taken away
            lease.release_turn(home, name, turn + 1)
            continue
        log.info("resuming where an interrupted run stopped: %s", home.at(name))
        _sweep(home / name)
        (home / name).remove(SCRATCH)  # what its workers shared
        return Attempt(name, turn + 1, (home / name).journaled(), home)
    name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    if not lease.take_turn(home, name, 1):
        raise StoreError(f"{home.at(name)} was just taken by another run: run again.")
    return Attempt(name, 1, (home / name).journaled(), home)


def _sweep(folder: Folder) -> None:
    """Remove what the dead left unfinished. A key that may not list uploads leaves them to `gc` or a lifecycle rule."""
    try:
        folder.sweep()
    except StoreError as problem:
        log.warning("unfinished files of a killed process in %s could not be removed: %s", folder, problem)


def take_for_removal(home: Folder, name: str, silent_for: float = 0.0) -> int | None:
    """Take an attempt over in order to remove it, for good: nobody goes on in what may be half removed.

    The turn that was taken; None if somebody is at work in it, or was less than `silent_for` seconds ago.
    """
    turn = lease.latest_turns(home).get(name, 0)
    if turn:
        holder = lease.read(home, name, turn)
        if holder is None or not holder.is_dead or _was_at_work(holder, silent_for):
            return None
    return turn + 1 if lease.take_turn(home, name, turn + 1, **{DOOMED: True}) else None


def _was_at_work(holder: lease.Lease, seconds: float) -> bool:
    return seconds > 0 and holder.silent_seconds() < seconds


def is_at_work(home: Folder, name: str, silent_for: float) -> bool:
    """Whether somebody may still go on with an attempt: its lease is alive, or was less than `silent_for` seconds ago."""
    turn = lease.latest_turns(home).get(name)
    if turn is None:
        return False
    holder = lease.read(home, name, turn)
    return holder is not None and (not holder.is_dead or _was_at_work(holder, silent_for))


@contextmanager
def hold_dead_attempt(home: Folder, name: str, is_published: Callable[[str], bool]) -> Generator[Folder | None]:
    """The folder of a dead try, in which nobody goes on during the block; None if somebody is at work in it, or gc removes it."""
    turn = lease.latest_turns(home).get(name, 0)
    holder = lease.read(home, name, turn) if turn else None
    is_free = not turn or (holder is not None and holder.is_dead and not holder.said.get(DOOMED))
    if not is_free or not lease.take_turn(home, name, turn + 1):
        yield None
        return
    try:
        with lease.renewed(home, name, turn + 1):
            yield None if is_published(name) else home / name
    finally:
        lease.release_turn(home, name, turn + 1)


@contextmanager
def attempt(home: Folder, is_published: Callable[[str], bool] = _nobody) -> Generator[Attempt]:
    """Work in a private folder below `home`.

    Leaving the block in peace says that the folder was published or dropped, and ends the lease. After an error the folder
    and a dead lease stay behind, free to be taken over at once.
    """
    mine = take_attempt(home, is_published)
    try:
        with lease.renewed(home, mine.name, mine.turn) as held:
            mine.out.guard(held.require)
            yield mine
    except BaseException:
        lease.release_turn(home, mine.name, mine.turn)
        raise
    end_leases(home, mine.name, mine.turn)


def end_leases(home: Folder, name: str, last: int) -> None:
    """Take the leases of an attempt away. What is published stays published if that fails; a dead lease does no harm."""
    try:
        for turn in range(1, last + 1):
            home.remove(lease.file_of(name, turn))
    except (DataError, StoreError) as problem:
        log.warning("could not remove the leases of %s: %s", home.at(name), problem)
