"""Work over many items: bounded in memory, in order of completion, in processes that die with their parent.

By default they are processes of this machine; `engines.using("ray")` or `engine=` takes the same work to a cluster.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic, Literal, TypeVar

from datacomp_core import engines
from datacomp_core.engines import Engine
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.interruptible_wait import take_finished
from datacomp_core.reused_processes import fits, reused_map

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

READERS = 16
"""Requests at once for what is in a bucket: one after another, 26,000 parts at 50 ms take 22 minutes."""
PR_SET_PDEATHSIG = 1
# Of a worker process that serves one map, or one `Processes`.
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


def child_process(prepare: Callable[[], Any]) -> ProcessPoolExecutor:
    """One process that prepares itself and ends with this one; also of a process that is a daemon (a worker of Dask's)."""
    multiprocessing.current_process().daemon = False  # a daemon may not have children, which could outlive it: ours do not
    return _pool(1, prepare)


class _Spawned(SpawnProcess):
    """A process that begins with Ctrl-C blocked: it imports for seconds before anything of ours could say that it ignores it."""

    def start(self) -> None:
        resource_tracker.ensure_running()  # whose own start lets signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawning(SpawnContext):
    Process = _Spawned  # pyright: ignore[reportAssignmentType]


SPAWN = _Spawning()
"""How this package starts processes: fork is unsafe with torch's, polars' and s3fs's threads."""


def leave_interrupts() -> None:
    """For a process of `SPAWN`: Ctrl-C is its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _pool(workers: int, prepare: Callable[[], Any]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=_ready, initargs=(os.getpid(), prepare))


def _nothing() -> None:
    """Prepare nothing, for a process that serves several maps."""


class _Recording(_Spawning):
    """Knows the processes that it has started."""

    def __init__(self) -> None:
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # noqa: N802 # pyright: ignore[reportIncompatibleVariableOverride]
        self.started.append(_Spawned(*args, **kwargs))
        return self.started[-1]


class _Unprepared(ProcessPoolExecutor):
    """Processes that serve several maps."""

    def __init__(self, workers: int) -> None:
        self._context = _Recording()
        super().__init__(workers, mp_context=self._context, initializer=_ready, initargs=(os.getpid(), _nothing))

    def are_alive(self) -> bool:
        return all(process.is_alive() for process in self._context.started)


def prepared_here() -> Any:
    """Return what this worker process prepared; raise the error if preparing failed."""
    if _unready:
        raise _unready[0]
    return _prepared[0]


def _ready(parent: int, prepare: Callable[[], Any]) -> None:
    die_with_parent()
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
    leave_interrupts()
    engines.mark_as_worker()
    try:
        with explain_import_errors():
            _prepared.append(prepare())
    except Exception as problem:  # an initializer that raises breaks the pool without a reason
        _unready.append(problem)


def _work(function: Callable[[Any, T], R], item: T) -> R:
    with explain_import_errors():
        return function(prepared_here(), item)


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _given(value: T) -> T:
    return value


def concurrently(function: Callable[[T], R], items: Iterable[T], at_once: int = READERS) -> Iterator[R]:
    """Yield the results of threads in the order of the items, with `at_once` calls at a time and at most twice as many started
    ahead: for many small files of a bucket.
    """
    flying = deque[Future[R]]()
    with ThreadPoolExecutor(at_once) as pool:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) >= 2 * at_once:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


def process_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, engine: Engine | None = None
) -> Iterator[tuple[T, R]]:
    """Yield `(item, function(item))` as they finish; at most two items a worker are in flight, so `items` may be endless.

    Function and items must pickle. With one worker everything runs in this process. The first error ends the rest and is
    raised. DatacompError if a worker was killed (out of memory, mostly).
    """
    # The function is what a worker prepares: it may carry much, and goes to each of them once.
    return prepared_map(_apply, items, prepare=partial(_given, function), workers=workers, engine=engine)


def prepared_map(
    function: Callable[[S, T], R],
    items: Iterable[T],
    *,
    prepare: Callable[[], S],
    workers: int,
    one_worker: Literal["here", "apart"] = "here",
    processes: Literal["reused", "own"] = "reused",
    engine: Engine | None = None,
    gpus: int = 0,
) -> Iterator[tuple[T, R]]:
    """`process_map` for `function(prepared, item)`, where each process makes `prepared` once, by `prepare()`.

    What is prepared is handed over, never left in a global: several maps may run in threads of one process. `one_worker` is
    "apart" for functions that change their process. Their processes end with the map, as do the "own" `processes` of functions
    that hold a device; others serve the next map too. `engine` is where the workers are; by default what `engines.using` says. On
    a cluster each worker holds `gpus` GPUs of it.
    """
    if workers <= 1 and one_worker == "here":
        with explain_import_errors():
            prepared = prepare()
        for item in items:
            with explain_import_errors():
                done = function(prepared, item)
            yield item, done
        return
    engine = engine or engines.current()
    workers = max(workers, 1)
    if engine != "local":
        alone = one_worker == "apart"
        yield from engines.cluster_map(function, items, prepare=prepare, workers=workers, engine=engine, alone=alone, gpus=gpus)
        return
    if processes == "reused" and one_worker == "here" and fits(prepare):
        try:
            yield from reused_map(function, items, prepare=prepare, workers=workers, start=_Unprepared)
        except BrokenProcessPool as problem:
            raise engines.worker_killed() from problem
        return
    own = Processes(workers, prepare)
    try:
        yield from own.map(function, items)
    finally:
        own.close()


class Processes(Generic[S]):
    """Processes of this machine, each with what it prepared once, for one map after another. They end with this one."""

    def __init__(self, workers: int, prepare: Callable[[], S]) -> None:
        multiprocessing.current_process().daemon = False  # a worker of Dask's is one, and a daemon may have no children
        self._workers, self._pool = workers, _pool(workers, prepare)

    def map(self, function: Callable[[S, T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """As `prepared_map`."""
        flying: dict[Future[R], T] = {}
        try:
            for item in items:
                flying[self._pool.submit(_work, function, item)] = item
                if len(flying) >= 2 * self._workers:
                    yield from take_finished(flying)
            while flying:
                yield from take_finished(flying)
        except BrokenProcessPool as problem:
            raise engines.worker_killed() from problem

    def submit(self, function: Callable[[S, T], R], item: T) -> Future[R]:
        """Begin `function(prepared, item)`. Its result is BrokenProcessPool if a process was killed."""
        return self._pool.submit(_work, function, item)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
