"""Keeps the worker processes of this machine between maps, so that a run of many maps starts them once.

A process needs a second or more to start and import. When a map has ended, its processes wait for the next map with the same
number of workers, environment, working folder and import path; after IDLE_SECONDS without one they end. What prepares a worker is
sent with each item, so it must be small (`fits`); each process calls it once per map. One thread starts all processes, because
the kernel ends a process when the thread that started it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.util import Finalize
from typing import Any, ParamSpec, Protocol, TypeVar

from datacomp_core.import_errors import explain_import_errors
from datacomp_core.interruptible_wait import take_finished, wait_for_first

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
P = ParamSpec("P")

IDLE_SECONDS = 10.0
"""How long processes wait for another map; 0: none is kept."""
MAX_BYTES = 1 << 16
"""Of what prepares a worker, pickled: more is sent to new processes, once to each."""

BEFORE_QUEUES = 100
"""When kept processes end as this process ends: before the queues that tell them so, whose priority is 10."""

_prepared: list[tuple[str, Any, Exception | None]] = []
"""Of a worker process: what it prepared last, for which map, or why that failed."""


class StartedProcesses(Protocol):
    """Processes of this machine that wait for calls: a ProcessPoolExecutor."""

    def are_alive(self) -> bool:
        """Whether none of those that were started has ended."""
        ...

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    def shutdown(self, wait: bool = True) -> None: ...


@dataclass(frozen=True)
class Key:
    """Identifies interchangeable processes: their number, and their arguments at the start."""

    workers: int
    start: tuple[object, ...]


@dataclass(eq=False)
class _Idle:
    """Processes that wait for a map of this kind."""

    key: Key
    pool: StartedProcesses
    since: float


@dataclass
class _Starter:
    """The thread that starts and ends all kept processes."""

    start: Callable[[int], StartedProcesses]
    idle: list[_Idle] = field(default_factory=list[_Idle])
    calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._serve, name="worker processes", daemon=True).start()

    def call(self, function: Callable[[], R]) -> R:
        """The result of a function that the thread calls."""
        done: Future[R] = Future()
        self.calls.put((function, done))
        return done.result()

    def _serve(self) -> None:
        while True:
            try:
                function, done = self.calls.get(timeout=IDLE_SECONDS / 4 if self.idle else None)
            except queue.Empty:
                since = time.monotonic() - IDLE_SECONDS
                self._end_idle([one for one in self.idle if one.since <= since])
                continue
            try:
                done.set_result(function())
            except BaseException as problem:
                done.set_exception(problem)

    def _end_idle(self, some: list[_Idle]) -> None:
        for one in some:
            self.idle = [other for other in self.idle if other is not one]
            one.pool.shutdown(wait=False)

    def take(self, key: Key) -> StartedProcesses:
        """Idle processes of this kind, else new ones."""
        for one in [one for one in self.idle if one.key == key]:
            self.idle = [other for other in self.idle if other is not one]
            if one.pool.are_alive():
                return one.pool
            one.pool.shutdown()  # one was killed meanwhile
        return self.start(key.workers)

    def give_back(self, pool: StartedProcesses, key: Key) -> None:
        """Keep processes for the next map, and end those of another environment, or more than the machine has cores."""
        if not IDLE_SECONDS:
            pool.shutdown()
            return
        self._end_idle([one for one in self.idle if one.key.start != key.start])
        while self.idle and key.workers + sum(one.key.workers for one in self.idle) > (os.cpu_count() or 1):
            self._end_idle(self.idle[:1])
        self.idle.append(_Idle(key, pool, time.monotonic()))


_lock = threading.Lock()
_starters: list[_Starter] = []


def _starter(start: Callable[[int], StartedProcesses]) -> _Starter:
    with _lock:
        if not _starters:
            multiprocessing.current_process().daemon = False  # as of `Processes`
            _starters.append(_Starter(start))
            Finalize(None, _end_all, exitpriority=BEFORE_QUEUES)
        return _starters[0]


def _end_all() -> None:
    """End what waits: a process of multiprocessing that ends joins its own processes, and would wait for these forever."""
    for starter in _starters:
        for one in starter.idle:
            one.pool.shutdown()


def _forget() -> None:
    """In a forked process: the thread and the processes are those of the other process."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    _starters.clear()


os.register_at_fork(after_in_child=_forget)


def _key(workers: int) -> Key:
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        folder = ""
    return Key(workers, (tuple(sorted(os.environ.items())), folder, tuple(sys.path)))


def fits(prepare: Callable[[], Any]) -> bool:
    """Whether this is small enough to be sent with every item."""
    try:
        return len(pickle.dumps(prepare)) <= MAX_BYTES
    except Exception:  # only the start of a process can send it, or says why it cannot
        return False


def reused_map(
    function: Callable[[S, T], R],
    items: Iterable[T],
    *,
    prepare: Callable[[], S],
    workers: int,
    start: Callable[[int], StartedProcesses],
) -> Iterator[tuple[T, R]]:
    """`parallel.prepared_map` in processes that may have served another map. BrokenProcessPool if one of them is killed."""
    starter, key, name = _starter(start), _key(workers), uuid.uuid4().hex
    work: Callable[[T], R] = partial(_work, name, prepare, function)
    flying: dict[Future[R], T] = {}
    pool: StartedProcesses | None = None
    try:
        for item in items:
            pool = pool or starter.call(partial(starter.take, key))
            flying[starter.call(partial(_submitted, pool, work, item))] = item
            if len(flying) >= 2 * workers:
                yield from take_finished(flying)
        while flying:
            yield from take_finished(flying)
    except BrokenProcessPool:
        if pool is not None:
            starter.call(pool.shutdown)
            pool = None
        raise
    finally:
        _drop(flying)  # after an error, or if the caller does not take the rest
        if pool is not None:
            starter.call(partial(starter.give_back, pool, key))


def _submitted(pool: StartedProcesses, work: Callable[[T], R], item: T) -> Future[R]:
    return pool.submit(work, item)


def _drop(flying: dict[Future[R], T]) -> None:
    """Cancel what has not begun, and wait for what has."""
    left = [future for future in flying if not future.cancel()]
    while left:
        done = wait_for_first(left)
        left = [future for future in left if future not in done]


def _work(name: str, prepare: Callable[[], S], function: Callable[[S, T], R], item: T) -> R:
    with explain_import_errors():
        return function(_prepared_for(name, prepare), item)


def _prepared_for(name: str, prepare: Callable[[], S]) -> S:
    if not _prepared or _prepared[0][0] != name:
        _prepared.clear()  # before the next is made: both may be large
        try:
            _prepared.append((name, prepare(), None))
        except Exception as problem:
            _prepared.append((name, None, problem))
    _, value, problem = _prepared[0]
    if problem is not None:
        raise problem
    return value
