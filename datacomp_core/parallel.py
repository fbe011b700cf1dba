"""Work over many items: bounded in memory, in order of completion, in processes that die with their parent.

By default they are processes of this machine; `engines.using("ray")` or `engine=` takes the same work to a cluster.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from datacomp_core import engines
from datacomp_core.engines import Engine
from datacomp_core.imports import imports_told
from datacomp_core.waiting import first_done

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

PR_SET_PDEATHSIG = 1
# Of a worker process, which serves one map only.
_prepared: list[Any] = []
_unready: list[Exception] = []


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends (Linux; elsewhere nothing happens)."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def end_children() -> None:
    """SIGTERM to every child of this process, so that threads which wait for them end with an error."""
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:  # it ended while we looked
            continue
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _ready(parent: int, prepare: Callable[[], Any]) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        with imports_told():
            _prepared.append(prepare())
    except Exception as problem:  # an initializer that raises breaks the pool without a word of why
        _unready.append(problem)


def _work(function: Callable[[Any, T], R], item: T) -> R:
    if _unready:
        raise _unready[0]
    with imports_told():
        return function(_prepared[0], item)


def _alone(function: Callable[[T], R], prepared: None, item: T) -> R:
    return function(item)


def _nothing() -> None:
    return None


def process_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, engine: Engine | None = None
) -> Iterator[tuple[T, R]]:
    """Yield `(item, function(item))` as they finish; at most two items a worker are in flight, so `items` may be endless.

    Function and items must pickle. With one worker everything runs in this process. The first error ends the rest and is
    raised. DatacompError if a worker was killed (out of memory, mostly).
    """
    return prepared_map(partial(_alone, function), items, prepare=_nothing, workers=workers, engine=engine)


def prepared_map(
    function: Callable[[S, T], R],
    items: Iterable[T],
    *,
    prepare: Callable[[], S],
    workers: int,
    one_worker: Literal["here", "apart"] = "here",
    engine: Engine | None = None,
) -> Iterator[tuple[T, R]]:
    """`process_map` for `function(prepared, item)`, where each process makes `prepared` once, by `prepare()`.

    What is prepared is handed over, never left in a global: several maps may run in threads of one process. `one_worker` is
    "apart" for functions that change their process. `engine` is where the workers are; by default what `engines.using` says.
    """
    if workers <= 1 and one_worker == "here":
        with imports_told():
            prepared = prepare()
        for item in items:
            with imports_told():
                done = function(prepared, item)
            yield item, done
        return
    engine = engine or engines.current()
    workers = max(workers, 1)
    if engine != "local":
        yield from engines.cluster_map(function, items, prepare=prepare, workers=workers, engine=engine)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe with torch's, polars' and s3fs's threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ready, initargs=(os.getpid(), prepare))
    try:
        flying: dict[Future[R], T] = {}
        for item in items:
            flying[pool.submit(_work, function, item)] = item
            if len(flying) >= 2 * workers:
                yield from _landed(flying)
        while flying:
            yield from _landed(flying)
    except BrokenProcessPool as problem:
        raise engines.worker_killed() from problem
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _landed(flying: dict[Future[R], T]) -> Iterator[tuple[T, R]]:
    for future in first_done(flying):
        yield flying.pop(future), future.result()
