"""Results that come in any order, given on in the order of their shards, in bounded memory.

While one shard hangs the others go on: what is done before its turn waits in memory up to a number, and beyond that on the disk.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from datacomp_core.progress import Progress
from datacomp_core.store import scratch

R = TypeVar("R")

MOST_IN_MEMORY = 1024
TELL_WAITING = 256
"""Results that wait for one shard, from which on the progress says which it is."""


def in_turn(found: Iterable[tuple[int, R]], first: int, names: dict[int, str], progress: Progress) -> Iterator[R]:
    """The results of `(number, result)` by number, from `first` on without a gap. `names` are of the shards, for the progress."""
    turn, tell_at = first, TELL_WAITING
    memory: dict[int, R] = {}
    with scratch() as local:
        disk: set[int] = set()
        for number, result in found:
            progress.advance()
            if number == turn or len(memory) < MOST_IN_MEMORY:
                memory[number] = result
            else:
                _file(local, number).write_bytes(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
                disk.add(number)
            while turn in memory or turn in disk:
                yield memory.pop(turn) if turn in memory else _taken(local, disk, turn)
                turn += 1
            waiting = len(memory) + len(disk)
            if waiting >= tell_at:
                progress.note(f"{waiting:,} are read and wait for {names.get(turn, turn)}")
                tell_at *= 2
            elif not waiting and tell_at > TELL_WAITING:
                progress.note("")
                tell_at = TELL_WAITING
        left = len(memory) + len(disk)
        assert left == 0, "a shard was not scanned"


def _file(local: Path, number: int) -> Path:
    return local / f"{number:08d}"


def _taken(local: Path, disk: set[int], number: int) -> R:  # pyright: ignore[reportInvalidTypeVarUse]
    disk.remove(number)
    path = _file(local, number)
    result: R = pickle.loads(path.read_bytes())  # our own, of this process's private folder
    path.unlink()
    return result
