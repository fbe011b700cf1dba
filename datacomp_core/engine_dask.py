"""Runs the engine "dask": tasks of one client per process; Dask reassigns the batch of a lost worker."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

from datacomp_core.engines import (
    RETRIES,
    START_SECONDS,
    BatchResult,
    MapJob,
    WorkerGroup,
    address,
    failed,
    starting,
    worker_killed,
)
from datacomp_core.errors import LostProcessError, SpecError

FORGOTTEN_SECONDS = 3600.0
"""A worker drops what it prepared for a map after this time without messages: the map's driver was killed."""


def crew(job: MapJob, workers: int) -> WorkerGroup:
    return DaskWorkers(job, workers)


def size(gpus: int) -> int:
    """Return the threads of all workers, or the GPUs that they were started with (`--resources GPU=1`)."""
    with starting:
        client = _client(1)
    if not gpus:
        return sum(client.nthreads().values())
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return int(sum(worker.get("resources", {}).get("GPU", 0) for worker in workers))


def machines() -> int:
    """Return the machines that currently have a worker."""
    with starting:
        client = _client(1)
    return len({worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()})


class DaskWorkers:
    """Tasks of a shared client; each worker prepares itself when the first batch of a map arrives."""

    def __init__(self, job: MapJob, workers: int) -> None:
        with starting:
            self._client = _client(workers)
        self._workers = workers
        self._token = uuid.uuid4().hex
        # Sent as a task, which is repeated if its worker is lost; scattered data would be lost.
        self._job = self._client.submit(_Told, self._token, job, pure=False)
        self._resources = {"GPU": job.gpus} if job.gpus else None
        self._flying: set[Any] = set()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def has_free(self) -> bool:
        return len(self._flying) < self._workers

    def submit(self, number: int, items: Sequence[Any]) -> None:
        task = self._client.submit(_serve, self._job, number, items, pure=False, retries=RETRIES, resources=self._resources)
        self._flying.add(task)
        task.add_done_callback(self._done.put)

    def next(self, seconds: float) -> BatchResult | None:
        from concurrent.futures import CancelledError
        from concurrent.futures.process import BrokenProcessPool

        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            task = self._done.get(timeout=seconds)
        except queue.Empty:
            return None
        self._flying.discard(task)
        try:
            return task.result()
        except (KilledWorker, BrokenProcessPool) as problem:
            raise worker_killed("(Dask)") from problem
        except (CancelledError, CommClosedError, TimeoutError) as problem:
            raise LostProcessError("The Dask scheduler was lost: run again; finished work is kept.") from problem

    def release(self) -> None:
        return

    def state(self) -> str:
        there = len(self._client.scheduler_info(n_workers=-1)["workers"])
        return "" if there else "it has no worker"

    def close(self) -> None:
        with suppress(Exception):  # the cluster may be gone
            self._client.cancel([*self._flying, self._job], force=True)
            self._client.run(_forget, self._token, on_error="ignore")


# On a worker ----------------------------------------------------------------------------------------------------------


class _Told:
    """A map's job on a worker, where it is sent once."""

    def __init__(self, token: str, job: MapJob) -> None:
        self.token, self.job = token, job


class _Prepared:
    """A worker's data for one map. A map that changes its process gets child processes, one per thread of the worker."""

    def __init__(self, job: MapJob) -> None:
        self.job, self.used = job, time.monotonic()
        self.problem: Exception | None = None
        self.idle: list[ProcessPoolExecutor] = []
        self.guard = threading.Lock()
        if not job.alone:
            try:
                self.value = job.prepared()
            except Exception as problem:
                self.problem = problem

    def work(self, number: int, items: Sequence[Any]) -> BatchResult:
        self.used = time.monotonic()
        if self.problem is not None:
            return failed(number, self.problem)
        return self._apart(number, items) if self.job.alone else self.job.work(self.value, number, items)

    def _apart(self, number: int, items: Sequence[Any]) -> BatchResult:
        from datacomp_core.parallel import child_process

        with self.guard:
            child = self.idle.pop() if self.idle else None
        child = child or child_process(self.job.prepared)
        try:
            done: BatchResult = child.submit(_in_child, self.job, number, items).result()
        except BaseException:  # the child is dead: Dask tries again, with another one
            child.shutdown(wait=False, cancel_futures=True)
            raise
        with self.guard:
            self.idle.append(child)
        return done

    def close(self) -> None:
        with self.guard:
            for child in self.idle:
                child.shutdown(wait=False, cancel_futures=True)
            self.idle.clear()


_of_map: dict[str, _Prepared] = {}


def _serve(told: _Told, number: int, items: Sequence[Any]) -> BatchResult:
    with starting:
        if told.token not in _of_map:
            for token in [token for token, made in _of_map.items() if time.monotonic() - made.used > FORGOTTEN_SECONDS]:
                _forget(token)
            _of_map[told.token] = _Prepared(told.job)
    return _of_map[told.token].work(number, items)


def _in_child(job: MapJob, number: int, items: Sequence[Any]) -> BatchResult:
    from datacomp_core.parallel import prepared_here

    try:
        prepared = prepared_here()
    except Exception as problem:
        return failed(number, problem)
    return job.work(prepared, number, items)


def _forget(token: str) -> None:
    if (made := _of_map.pop(token, None)) is not None:
        made.close()


# The client -----------------------------------------------------------------------------------------------------------


def _client(workers: int) -> Any:
    client, cluster = _connected()
    if cluster is not None and len(cluster.worker_spec) < workers:
        cluster.scale(workers)
    return client


@cache
def _connected() -> tuple[Any, Any]:
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # otherwise a cluster writes fifty lines to the run's log
    from dask.config import set as set_dask
    from distributed import Client, LocalCluster

    if given := address("dask"):
        try:
            return Client(given, timeout=30), None
        except (OSError, TimeoutError, ValueError) as problem:
            why = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            raise SpecError(
                f"The Dask scheduler at {given} (DASK_SCHEDULER_ADDRESS) cannot be reached ({why}): start it there, or unset "
                "DASK_SCHEDULER_ADDRESS."
            ) from problem
    # Dask closes a lost worker permanently if it has not restarted in 15 s, which takes longer on a busy machine.
    set_dask({"distributed.deploy.lost-worker-timeout": f"{START_SECONDS}s"})
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1", memory_limit=0
    )
    client = Client(cluster)
    atexit.register(cluster.close)
    atexit.register(client.close)
    return client, cluster
