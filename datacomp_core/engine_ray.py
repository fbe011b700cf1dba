"""Runs the engine "ray": actors with one batch each at a time; Ray restarts lost actors and repeats their batch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import Any

from datacomp_core.engines import RETRIES, BatchResult, MapJob, WorkerGroup, address, failed, starting, worker_killed
from datacomp_core.errors import LostProcessError, SpecError


def crew(job: MapJob, workers: int) -> WorkerGroup:
    return RayWorkers(job, workers)


def size(gpus: int) -> int:
    """Return the current cores, or GPUs, of the cluster."""
    import ray

    with starting:
        start_ray()
    found: Any = ray.cluster_resources()
    return int(found.get("GPU" if gpus else "CPU", 0))


def machines() -> int:
    """Return the machines that currently have a core."""
    import ray

    with starting:
        start_ray()
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1)


class _Actor:
    """One worker of one map, in a separate process."""

    def __init__(self, job: MapJob) -> None:
        self._job = job
        self._problem: Exception | None = None
        try:
            self._prepared = job.prepared()
        except Exception as problem:  # Ray reports an actor that fails at its start without the reason
            self._problem = problem

    def here(self) -> None:
        """Answers when the actor has started."""

    def work(self, number: int, items: Sequence[Any]) -> BatchResult:
        return failed(number, self._problem) if self._problem else self._job.work(self._prepared, number, items)


class RayWorkers:
    """A pool of actors in Ray's `ActorPool`. An actor joins when it has started, because the cluster may not have room for all
    of them. On a cluster of machines each uses a core (on a GPU machine, its share of the cores); on this machine the number of
    workers limits them.
    """

    def __init__(self, job: MapJob, workers: int) -> None:
        import ray
        from ray.util import ActorPool

        with starting:
            start_ray()
        options: dict[str, Any] = {"max_restarts": RETRIES, "max_task_retries": RETRIES, "num_gpus": job.gpus}
        if address("ray"):
            options["scheduling_strategy"] = "SPREAD"
        actor: Any = ray.remote(num_cpus=_cores(job.gpus), **options)(_Actor)
        self._told = ray.put(job)  # once per machine, by the object store; kept, because a restarted actor reads it again
        self._actors = [actor.remote(self._told) for _ in range(workers)]
        self._coming: dict[Any, Any] = {one.here.remote(): one for one in self._actors}
        self._pool: Any = ActorPool([])

    def has_free(self) -> bool:
        self._join(0)
        return bool(self._pool.has_free())

    def submit(self, number: int, items: Sequence[Any]) -> None:
        self._pool.submit(lambda actor, value: actor.work.remote(*value), (number, items))

    def next(self, seconds: float) -> BatchResult | None:
        from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

        try:
            if not self._pool.has_next():
                self._join(seconds)
                return None
            return self._pool.get_next_unordered(timeout=seconds)
        except TimeoutError:
            return None
        except (ActorDiedError, ActorUnavailableError) as problem:
            raise worker_killed("(Ray)") from problem
        except RayTaskError:
            raise
        except RayError as problem:
            raise LostProcessError(
                f"The Ray cluster was lost ({type(problem).__name__}): run again; finished work is kept."
            ) from problem

    def release(self) -> None:
        """Free the cores of idle actors: an actor of a lost machine waits for a core to restart."""
        import ray

        while self._pool.has_free():
            ray.kill(self._pool.pop_idle())
        for one in self._coming.values():
            ray.kill(one)
        self._coming.clear()

    def state(self) -> str:
        import ray

        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU"))
        return f"{len(self._coming)} of {len(self._actors)} have not started; {kinds}" if self._coming else ""

    def close(self) -> None:
        import ray

        with suppress(Exception):  # the cluster and its actors may be gone
            for one in self._actors:
                ray.kill(one)

    def _join(self, seconds: float) -> None:
        import ray

        if not self._coming:
            return
        ready, _ = ray.wait(list(self._coming), num_returns=1 if seconds else len(self._coming), timeout=seconds)
        for one in ready:
            self._pool.push(self._coming.pop(one))


def _cores(gpus: int) -> float:
    """Return the resources of one actor. A GPU actor decodes with its share of the cores of its machine."""
    import ray

    if not address("ray"):
        return 0
    if not gpus:
        return 1
    shares = [
        node["Resources"].get("CPU", 0) * gpus // node["Resources"]["GPU"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("GPU", 0) >= gpus
    ]
    return min(shares, default=0)


@cache
def start_ray() -> None:
    """Join the cluster at RAY_ADDRESS, or start one here; once per process. SpecError if it cannot be joined. A permanent
    thread does this: on Linux, the kernel kills Ray's cluster when the thread that started it ends, and a minute later Ray ends
    this process.
    """
    started: Future[None] = Future()
    threading.Thread(target=_keep_ray, args=(started,), daemon=True, name="ray").start()
    try:
        started.result()
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as problem:
        if not address("ray"):
            raise
        why = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise SpecError(
            f"The Ray cluster at {address('ray')} (RAY_ADDRESS) cannot be joined ({why}): start it there "
            "(ray start --head --node-ip-address=...), or unset RAY_ADDRESS."
        ) from problem


def _keep_ray(started: Future[None]) -> None:
    try:
        _init_ray()
    except BaseException as problem:  # passed to the waiting thread
        started.set_exception(problem)
    else:
        started.set_result(None)
        threading.Event().wait()


def _init_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless requested
    import ray

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # its workers can import what we can import
    try:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False, job_config=_job_config())
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)


def _job_config() -> Any:
    """Return Ray's own settings of a job, without folders that we import nothing from. Ray puts the driver's working folder first
    on the path of each worker, where a `tasks.py` of the user would hide ours; no parameter of `ray.init` prevents it.
    """
    from ray.job_config import JobConfig

    class OurPath(JobConfig):
        def _serialize(self) -> str:
            ours = {os.path.abspath(path) for path in sys.path}
            self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in ours]
            return super()._serialize()

    return OurPath()
