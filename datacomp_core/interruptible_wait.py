"""Waits that a signal ends.

The kernel may hand a signal to any thread of a process, and Python runs its handler in the main thread, once that runs: one
that waits without end for other threads may never hear of Ctrl-C or of a cancelled run. So these wake now and then.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAKE_SECONDS = 0.5


def wait_for_event(event: threading.Event) -> None:
    """Wait until the event is set."""
    while not event.wait(WAKE_SECONDS):
        pass


def wait_for_first(futures: Iterable[Future[R]]) -> set[Future[R]]:
    """Until at least one is done: those that are. Of none, none."""
    some = list(futures)
    done: set[Future[R]] = set()
    while some and not done:
        done, _ = wait(some, timeout=WAKE_SECONDS, return_when=FIRST_COMPLETED)
    return done


def take_finished(flying: dict[Future[R], T]) -> Iterator[tuple[T, R]]:
    """Wait until at least one is done; take those that are out of `flying`, and yield their items and results."""
    for future in wait_for_first(flying):
        yield flying.pop(future), future.result()


def wait_for_exit(process: subprocess.Popen[Any]) -> int:
    """Until it has ended: its exit status, negative for a signal."""
    while (status := process.poll()) is None:
        time.sleep(WAKE_SECONDS / 10)
    return status
