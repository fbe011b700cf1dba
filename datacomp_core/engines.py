"""Where a map's items are worked on: processes of this machine ("local"), Ray, or Dask.

An engine says how work is run, never what it is: the results are the same whichever it is. Ray and Dask start a cluster on this
machine, unless RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names one; then the code, the store and the scratch folder must be the
same on every machine of it. Items travel in batches worth a second, so that milliseconds a call do not count.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar, get_args

from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.imports import imports_told
from datacomp_core.waiting import first_done

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

Engine = Literal["local", "ray", "dask"]
MODULES = {"ray": "ray", "dask": "distributed"}
BATCH_SECONDS = 1.0
MAX_BATCH = 64

_engine: ContextVar[Engine] = ContextVar("engine", default="local")
_starting = threading.Lock()


def current() -> Engine:
    """The engine of the maps in this context that name none."""
    return _engine.get()


@contextmanager
def using(engine: str) -> Generator[None]:
    """Maps in this block run on `engine`. SpecError if it is unknown or not installed."""
    token = _engine.set(required(engine))
    try:
        yield
    finally:
        _engine.reset(token)


def required(engine: str) -> Engine:
    """The engine of that name. SpecError if there is none, or its package is missing."""
    if engine not in get_args(Engine):
        raise SpecError(f"Unknown engine {engine!r}: choose one of {', '.join(get_args(Engine))}.")
    if engine in MODULES and importlib.util.find_spec(MODULES[engine]) is None:
        raise SpecError(f"The engine {engine!r} is not installed: pip install 'datacomp[{engine}]', or use engine 'local'.")
    return engine  # pyright: ignore[reportReturnType]


def worker_killed(detail: str = "") -> DatacompError:
    """What is said of a worker that is gone."""
    return DatacompError(
        "A worker process was killed, most likely for want of memory: run again with fewer workers (DATACOMP_WORKERS); "
        f"finished work is kept.{f' {detail}' if detail else ''}"
    )


def cluster_map(
    function: Callable[[S, T], R], items: Iterable[T], *, prepare: Callable[[], S], workers: int, engine: Literal["ray", "dask"]
) -> Iterator[tuple[T, R]]:
    """`parallel.prepared_map` on a cluster: at most two batches a worker are in flight, and the first error ends the rest."""
    required(engine)
    hands: Hands = {"ray": _Ray, "dask": _Dask}[engine](function, prepare, workers)
    size, left = 1, iter(items)
    flying: dict[Future[Done], Sequence[T]] = {}
    try:
        while True:
            while len(flying) < 2 * workers and (batch := tuple(islice(left, size))):
                flying[hands.submit(batch)] = batch
            if not flying:
                return
            for future in first_done(flying):
                batch, done = flying.pop(future), hands.opened(future)
                yield from zip(batch, done.results, strict=False)  # fewer results than items: the next one failed
                if done.problem is not None:
                    raise done.problem
                size = max(1, min(MAX_BATCH, int(BATCH_SECONDS * len(batch) / max(done.seconds, 1e-6))))
    finally:
        hands.close()


@dataclass(frozen=True)
class Done:
    """What one batch came to: results up to the first error, the error, and the seconds of work."""

    results: tuple[Any, ...]
    problem: Exception | None
    seconds: float


def _work(prepared: Any, function: Callable[[Any, Any], Any], items: Sequence[Any]) -> Done:
    """`function` of each item. An error is handed back as a value, so that no engine wraps it."""
    began = time.monotonic()
    results: list[Any] = []
    try:
        with imports_told():
            for item in items:
                results.append(function(prepared, item))
    except Exception as problem:
        return Done(tuple(results), problem, time.monotonic() - began)
    return Done(tuple(results), None, time.monotonic() - began)


class Hands(Protocol):
    """The workers of one map, each with what it prepared for itself."""

    def submit(self, items: Sequence[Any]) -> Future[Done]: ...

    def opened(self, future: Future[Done]) -> Done: ...

    def close(self) -> None: ...


# Ray ------------------------------------------------------------------------------------------------------------------


class _Actor:
    """One worker of one map, in a process of its own."""

    def __init__(self, function: Callable[[Any, Any], Any], prepare: Callable[[], Any]) -> None:
        self._function = function
        self._problem: Exception | None = None
        try:
            with imports_told():
                self._prepared = prepare()
        except Exception as problem:  # an actor that fails at its start is told of without the reason
            self._problem = problem

    def work(self, items: Sequence[Any]) -> Done:
        return Done((), self._problem, 0.0) if self._problem else _work(self._prepared, self._function, items)


class _Ray:
    """Actors. They wait for a free core on a cluster of machines; on this one the number of workers is what bounds them."""

    def __init__(self, function: Callable[[Any, Any], Any], prepare: Callable[[], Any], workers: int) -> None:
        import ray

        with _starting:
            start_ray()
        cores = 1 if os.environ.get("RAY_ADDRESS") else 0
        actor: Any = ray.remote(num_cpus=cores, max_restarts=0)(_Actor)
        self._idle = {actor.remote(function, prepare): 0 for _ in range(workers)}  # how many batches each has in flight
        self._holder: dict[Future[Done], Any] = {}

    def submit(self, items: Sequence[Any]) -> Future[Done]:
        actor = min(self._idle, key=lambda one: self._idle[one])
        future: Future[Done] = actor.work.remote(items).future()
        self._idle[actor] += 1
        self._holder[future] = actor
        return future

    def opened(self, future: Future[Done]) -> Done:
        from ray.exceptions import RayActorError

        self._idle[self._holder.pop(future)] -= 1
        try:
            return future.result()
        except RayActorError as problem:
            raise worker_killed("(Ray)") from problem

    def close(self) -> None:
        import ray

        for actor in self._idle:
            ray.kill(actor)


@cache
def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS names, or start one here; once a process.

    A thread that never ends does it: on Linux, Ray has the kernel kill its cluster when the thread that started it is gone,
    and a minute later Ray ends this process for the loss.
    """
    started: Future[None] = Future()
    threading.Thread(target=_keep_ray, args=(started,), daemon=True, name="ray").start()
    started.result()


def _keep_ray(started: Future[None]) -> None:
    try:
        _init_ray()
    except BaseException as problem:  # handed to the thread that waits
        started.set_exception(problem)
    else:
        started.set_result(None)
        threading.Event().wait()


def _init_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless asked
    import ray

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # its workers import what we can import
    try:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)


# Dask -----------------------------------------------------------------------------------------------------------------

# Of a Dask worker: what it prepared for the maps it serves, and under which token.
_of_map: dict[str, tuple[Any, Exception | None]] = {}


def _serve(token: str, function: Callable[[Any, Any], Any], prepare: Callable[[], Any], items: Sequence[Any]) -> Done:
    with _starting:
        if token not in _of_map:
            try:
                with imports_told():
                    _of_map[token] = (prepare(), None)
            except Exception as problem:
                _of_map[token] = (None, problem)
    prepared, problem = _of_map[token]
    return Done((), problem, 0.0) if problem else _work(prepared, function, items)


def _forget(token: str) -> None:
    _of_map.pop(token, None)


class _Dask:
    """Tasks of a shared client; each worker prepares itself when the first batch of a map arrives."""

    def __init__(self, function: Callable[[Any, Any], Any], prepare: Callable[[], Any], workers: int) -> None:
        with _starting:
            self._client = _dask_client(workers)
        self._token = uuid.uuid4().hex
        self._job = (self._token, function, prepare)
        self._flying: dict[Future[Done], Any] = {}

    def submit(self, items: Sequence[Any]) -> Future[Done]:
        task = self._client.submit(_serve, *self._job, items, pure=False, retries=0)
        future: Future[Done] = Future()
        self._flying[future] = task
        task.add_done_callback(lambda _: future.set_result(None))  # pyright: ignore[reportArgumentType] - opened below
        return future

    def opened(self, future: Future[Done]) -> Done:
        from distributed import KilledWorker

        try:
            return self._flying.pop(future).result()
        except KilledWorker as problem:
            raise worker_killed("(Dask)") from problem

    def close(self) -> None:
        self._client.cancel(list(self._flying.values()), force=True)
        self._client.run(_forget, self._token, on_error="ignore")


@cache
def _dask_client(workers: int) -> Any:
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # or a cluster writes fifty lines into the run's log
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 0})  # pyright: ignore[reportPrivateImportUsage]
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        return Client(address)
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1", memory_limit=0
    )
    client = Client(cluster)
    atexit.register(cluster.close)
    atexit.register(client.close)
    return client
