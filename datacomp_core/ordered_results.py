"""Passes on results in the order of their shards or parts, in bounded memory. While one hangs, the others continue: early results
wait in memory up to a limit, and beyond that on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import scratch

T = TypeVar("T")
R = TypeVar("R")

MOST_IN_MEMORY = 1024
TELL_WAITING = 256
"""Results that wait for one shard, from which on the progress says which it is."""


def results_in_order(
    done: Iterable[tuple[T, R]],
    items: Iterable[T],
    most_in_memory: int = MOST_IN_MEMORY,
    save: Callable[[Path, R], None] | None = None,
    load: Callable[[Path, int], R] | None = None,
) -> Iterator[R]:
    """The results of a map in the order of its (hashable) items. `most_in_memory` of them wait there, the others on the disk.

    Without `save` and `load` they are tuples of arrays and numbers.
    """
    number = {item: place for place, item in enumerate(items)}
    found = ((number[item], result) for item, result in done)
    return results_by_number(found, {}, save or _save_arrays, load or _load_arrays, most_in_memory=most_in_memory)


def _save_arrays(path: Path, result: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, *result)


def _load_arrays(path: Path, number: int) -> Any:
    with np.load(path, allow_pickle=False) as kept:
        found = [kept[f"arr_{place}"] for place in range(len(kept.files))]
    return tuple(one if one.ndim else one.item() for one in found)


def results_by_number(
    found: Iterable[tuple[int, R]],
    names: dict[int, str],
    save: Callable[[Path, R], None],
    load: Callable[[Path, int], R],
    progress: Progress = NO_PROGRESS,
    most_in_memory: int = MOST_IN_MEMORY,
) -> Iterator[R]:
    """The results of `(number, result)` by number, from 0 on without a gap. `names` are of the shards, for the progress.

    `save` writes a result to a file, from which `load` reads it again.
    """
    turn, tell_at = 0, TELL_WAITING
    memory: dict[int, R] = {}
    with scratch() as local:
        disk: set[int] = set()
        for number, result in found:
            progress.advance()
            if number == turn or len(memory) < most_in_memory:
                memory[number] = result
            else:
                save(_file(local, number), result)
                disk.add(number)
            while turn in memory or turn in disk:
                if turn in disk:
                    memory[turn] = load(_file(local, turn), turn)
                    _file(local, turn).unlink()
                    disk.remove(turn)
                yield memory.pop(turn)
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
