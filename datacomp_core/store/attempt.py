"""One try at building one address: a private folder, a lease that says who is at work, and taking over from the dead.

A try that was killed leaves its folder and a lease that nobody renews. The next try at the same address claims that folder
and goes on in it: files in it are whole (see `folder`), so a step skips what it finds. Two living tries never share one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datacomp_core.store.folder import Folder

log = logging.getLogger(__name__)

PREFIX = "attempt-"
RENEW_SECONDS = 20
DEAD_AFTER_SECONDS = 180


@dataclass(frozen=True)
class Attempt:
    """`name` is the folder below the address; `turn` counts who has worked in it, from 1."""

    name: str
    turn: int
    out: Folder


def _started(pid: int) -> str:
    """A process's start in clock ticks since boot: with the pid and the boot it names one process for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _lease() -> bytes:
    pid = os.getpid()
    return json.dumps(
        {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _started(pid), "renewed": time.time()}
    ).encode()


def _is_dead(lease: dict[str, object]) -> bool:
    if lease.get("host") == socket.gethostname():
        if lease.get("boot") != _boot():
            return True
        pid = int(str(lease.get("pid", 0)))
        return not _started(pid) or _started(pid) != lease.get("started")
    return time.time() - float(str(lease.get("renewed", 0))) > DEAD_AFTER_SECONDS


def _turns(home: Folder) -> dict[str, int]:
    """The latest turn of each attempt at this address, from the lease files `attempt-<id>.lease-<turn>`."""
    turns: dict[str, int] = {}
    for name in home.files():
        stem, dot, turn = name.partition(".lease-")
        if dot and "/" not in name and turn.isdigit():
            turns[stem] = max(turns.get(stem, 0), int(turn))
    return turns


def _claim(home: Folder) -> Attempt:
    for name, turn in sorted(_turns(home).items()):
        if not _is_dead(home.read_json(f"{name}.lease-{turn}")):
            continue
        if home.create(f"{name}.lease-{turn + 1}", _lease()):
            log.info("going on where an interrupted run stopped: %s", home.at(name))
            (home / name).sweep()
            return Attempt(name, turn + 1, (home / name).journaled())
    name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    home.create(f"{name}.lease-1", _lease())
    return Attempt(name, 1, (home / name).journaled())


def is_at_work(home: Folder, name: str, since: float) -> bool:
    """Whether somebody may still go on with an attempt: its lease is alive, or was renewed after `since` (seconds since 1970)."""
    turn = _turns(home).get(name)
    if turn is None:
        return False
    lease = home.read_json(f"{name}.lease-{turn}")
    return not _is_dead(lease) or float(str(lease.get("renewed", 0))) > since


@contextmanager
def attempt(home: Folder) -> Generator[Attempt]:
    """Work in a folder of one's own below `home`.

    Leaving the block in peace says that the folder was published or dropped, and ends the lease. After an error the folder
    and a dead lease stay behind, free to be taken over at once.
    """
    mine = _claim(home)
    lease = f"{mine.name}.lease-{mine.turn}"
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_SECONDS):
            try:
                home.write(lease, _lease())
            except Exception as problem:  # the work itself will meet a lasting fault and say so
                log.warning("could not renew %s: %s", home.at(lease), problem)

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    try:
        yield mine
    except BaseException:
        _end(done, thread)
        home.write(lease, json.dumps({"host": socket.gethostname(), "boot": "ended"}).encode())
        raise
    _end(done, thread)
    for turn in range(1, mine.turn + 1):
        home.remove(f"{mine.name}.lease-{turn}")


def _end(done: threading.Event, thread: threading.Thread) -> None:
    done.set()
    thread.join()
