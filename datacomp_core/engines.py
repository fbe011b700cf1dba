"""Runs the items of a map on processes of this machine ("local"), Ray, or Dask. An engine never changes results. Ray and Dask
start a cluster on this machine, unless RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names one. Driver and workers exchange values and
share the store, never a path, a descriptor or shared memory: a cluster shares only a bucket (`exchange` transfers what is too
large for a message). Items are sent in batches of about a second of work, so that per-call overhead is negligible. Ray's and
Dask's retries reassign a lost worker's batch.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, Protocol, TypeVar, get_args

from datacomp_core.errors import DatacompError, LostProcessError, SpecError
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.shared_places import SharedPlace, shared_places

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

Engine = Literal["local", "ray", "dask"]
MODULES = {"ray": "ray", "dask": "distributed"}
ADDRESSES = {"ray": "RAY_ADDRESS", "dask": "DASK_SCHEDULER_ADDRESS"}
BATCH_SECONDS = 1.0
MAX_BATCH = 64
RETRIES = 3
"""How often a batch is reassigned after its worker was lost."""
WAKE_SECONDS = 0.5
TELL_SECONDS = 30.0
START_SECONDS = 900.0
"""How long a map waits for its first worker."""

_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)
_carried: ContextVar[Any] = ContextVar("carried", default=None)
starting = threading.Lock()


def current() -> Engine:
    """Return the default engine of maps in this context: from `using`, else from the settings (DATACOMP_ENGINE)."""
    if (engine := _engine.get()) is not None:
        return engine
    from datacomp_core.settings import settings

    return required(settings().engine)


def mark_as_worker() -> None:
    """In a worker process: maps inside a map stay on its machine."""
    _engine.set("local")


@contextmanager
def using(engine: str) -> Generator[None]:
    """Maps in this block run on `engine`. SpecError if it is unknown or not installed."""
    token = _engine.set(required(engine))
    try:
        yield
    finally:
        _engine.reset(token)


@contextmanager
def carry_value(value: Any) -> Generator[None]:
    """`carried_value()` returns this value in the block, and in the workers of maps that run in it."""
    token = _carried.set(value)
    try:
        yield
    finally:
        _carried.reset(token)


def carried_value() -> Any:
    return _carried.get()


def required(engine: str) -> Engine:
    """Return the engine of that name. SpecError if it is unknown, or its package is missing."""
    if engine not in get_args(Engine):
        raise SpecError(f"Unknown engine {engine!r}: choose one of {', '.join(get_args(Engine))}.")
    if engine in MODULES and importlib.util.find_spec(MODULES[engine]) is None:
        raise SpecError(f"The engine {engine!r} is not installed: pip install 'datacomp[{engine}]', or use engine 'local'.")
    return engine  # pyright: ignore[reportReturnType]


def address(engine: str) -> str:
    """Return the address of an engine's cluster from the environment; empty if we start one on this machine."""
    given = os.environ.get(ADDRESSES.get(engine, ""), "")
    return "" if given == "local" else given


def spans_machines(engine: Engine | None = None) -> bool:
    """Return whether workers may run on other machines."""
    return bool(address(engine or current()))


def cluster_cores(engine: Engine, gpus: int = 0) -> int:
    """The CPU cores (or with `gpus` the GPUs) of an engine's cluster, once a worker has started. SpecError without one."""
    _await_worker(engine)
    return _module(engine).size(gpus)


def cluster_machines(engine: Engine) -> int:
    """The machines of an engine's cluster that work, once there is one."""
    _await_worker(engine)
    return _module(engine).machines()


def _await_worker(engine: Engine) -> None:
    """Wait for the first worker: a new cluster has none yet, and what it will have is unknown."""
    module = _module(engine)
    began = told = time.monotonic()
    while not (module.size(0) or module.size(1)):
        now = time.monotonic()
        if now - began > START_SECONDS:
            raise _no_worker(engine, "it has none")
        if now - told > TELL_SECONDS:
            told = now
            log.warning("waiting for workers of the %s cluster: it has none", engine)
        time.sleep(WAKE_SECONDS)


def _no_worker(engine: str, state: str) -> LostProcessError:
    return LostProcessError(
        f"No worker of the {engine} cluster began within {START_SECONDS / 60:.0f} minutes ({state}): start some, free some of "
        "it, or ask for less (DATACOMP_WORKERS)."
    )


def worker_killed(detail: str = "") -> LostProcessError:
    """Return the error for a lost worker."""
    return LostProcessError(
        "A worker process was killed, probably because memory ran out: run again with fewer workers (DATACOMP_WORKERS); "
        f"finished work is kept.{f' {detail}' if detail else ''}"
    )


@dataclass(frozen=True)
class MapJob:
    """The job that every worker of one map receives. `alone`: the function changes its process, so no other map may share it."""

    function: Callable[[Any, Any], Any]
    prepare: Callable[[], Any]
    alone: bool = False
    gpus: int = 0
    carried: Any = None
    places: tuple[SharedPlace, ...] = ()

    def prepared(self) -> Any:
        with using("local"), carry_value(self.carried), explain_import_errors():
            for place in self.places:
                place.check()
            return self.prepare()

    def work(self, prepared: Any, number: int, items: Sequence[Any]) -> BatchResult:
        """Call the function for each item. An error is returned as a value, so that no engine wraps it."""
        began = time.monotonic()
        results: list[Any] = []
        problem: Exception | None = None
        try:
            with using("local"), carry_value(self.carried), explain_import_errors():
                for item in items:
                    results.append(self.function(prepared, item))
        except Exception as found:
            problem = portable(found)
        return BatchResult(number, tuple(results), problem, time.monotonic() - began, socket.gethostname())


@dataclass(frozen=True)
class BatchResult:
    """The result of one batch: results up to the first error, the error, the seconds of work, and the machine."""

    number: int
    results: tuple[Any, ...]
    problem: Exception | None
    seconds: float
    host: str


def failed(number: int, problem: Exception) -> BatchResult:
    """A batch of a worker that could not prepare itself."""
    return BatchResult(number, (), portable(problem), 0.0, socket.gethostname())


def portable(problem: Exception) -> Exception:
    """Return an error that can be sent: itself, or one with its text if it cannot be pickled."""
    try:
        same = copy.deepcopy(problem)  # with the same methods as pickling
        if type(same) is type(problem) and str(same) == str(problem):
            return problem
    except Exception:  # a foreign class may raise anything
        pass
    kind = next((kind for kind in type(problem).__mro__ if kind.__module__ == DatacompError.__module__), DatacompError)
    told = str(problem) if isinstance(problem, DatacompError) else f"{type(problem).__name__}: {problem}"
    made = DatacompError.__new__(kind)
    Exception.__init__(made, told)
    return made


class WorkerGroup(Protocol):
    """The workers of one map. Each has one batch at a time."""

    def has_free(self) -> bool:
        """Whether a worker waits for a batch."""
        ...

    def submit(self, number: int, items: Sequence[Any]) -> None:
        """Assign a batch to the next free worker."""
        ...

    def next(self, seconds: float) -> BatchResult | None:
        """Return a finished batch; None after the timeout. LostProcessError if workers repeatedly die of it."""
        ...

    def release(self) -> None:
        """Mark the end of the work: idle workers may stop."""
        ...

    def state(self) -> str:
        """Return the number of workers, for a log line."""
        ...

    def close(self) -> None: ...


def cluster_map(
    function: Callable[[S, T], R],
    items: Iterable[T],
    *,
    prepare: Callable[[], S],
    workers: int,
    engine: Literal["ray", "dask"],
    alone: bool = False,
    gpus: int = 0,
) -> Iterator[tuple[T, R]]:
    """`parallel.prepared_map` on a cluster: one batch per worker is in flight, and the first error ends the rest. As many of
    `workers` are started as the cluster has room for; work begins with the first. With `gpus` each of them reserves that many
    GPUs.
    """
    required(engine)
    left = iter(items)
    first = list(islice(left, workers))  # more workers than items are useless
    if not first:
        return
    left = chain(first, left)
    places = shared_places(function, prepare, carried_value(), first) if spans_machines(engine) else ()
    crew: WorkerGroup = _module(engine).crew(MapJob(function, prepare, alone, gpus, carried_value(), places), len(first))
    waiting = _Waiting(engine, crew)
    flying: dict[int, Sequence[T]] = {}
    hosts: Counter[str] = Counter()
    size, number, is_more = 1, 0, True
    try:
        while True:
            while is_more and crew.has_free():
                batch = tuple(islice(left, size))
                is_more = len(batch) == size
                if batch:
                    flying[number] = batch
                    crew.submit(number, batch)
                    number += 1
            if not is_more:
                crew.release()
                if not flying:
                    break
            done = crew.next(WAKE_SECONDS)
            if done is None:
                waiting.tell(bool(hosts))
                continue
            batch = flying.pop(done.number)
            hosts[done.host] += len(done.results)
            yield from zip(batch, done.results, strict=False)  # fewer results than items: the next one failed
            if done.problem is not None:
                raise done.problem
            size = max(1, min(MAX_BATCH, int(BATCH_SECONDS * len(batch) / max(done.seconds, 1e-6))))
    finally:
        crew.close()
    if spans_machines(engine):
        log.info("%s: %s", engine, ", ".join(f"{count} items on {host}" for host, count in sorted(hosts.items())))


class _Waiting:
    """Logs that a map waits for workers, and gives up if none starts."""

    def __init__(self, engine: str, crew: WorkerGroup) -> None:
        self.engine, self.crew = engine, crew
        self.began = self.told = time.monotonic()

    def tell(self, has_begun: bool) -> None:
        now = time.monotonic()
        if now - self.told < TELL_SECONDS:
            return
        self.told = now
        state = self.crew.state()
        if state and not has_begun and now - self.began > START_SECONDS:
            raise _no_worker(self.engine, state)
        if state:
            log.warning("waiting for workers of the %s cluster: %s", self.engine, state)


def _module(engine: str) -> Any:
    return importlib.import_module(f"datacomp_core.engine_{engine}")
