"""Runs a download with img2dataset's own distributors (multiprocessing, pyspark, ray) instead of this project's engines. They
distribute shards and report only whether each failed. Finished shards are therefore read from their stats in the store, and
workers' errors are in their log. `engine` is the default: it stops at the first error.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datacomp_core import engines
from datacomp_core.engine_ray import start_ray
from datacomp_core.errors import DatacompError, MissingLibraryError, SpecError
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.parallel import die_with_parent
from datacomp_core.pool.download_shard import Fetched, ShardPlan, Worker, fetch_shard, set_up, stats_name
from datacomp_core.shards import shard_name
from datacomp_core.store import Folder

Distributor = Literal["engine", "multiprocessing", "pyspark", "ray"]
LOOK_SECONDS = 1.0
SHARDS_OF_A_SPARK_JOB = 1000  # img2dataset's default

# In a worker process: what it prepared, and for which job.
_prepared: dict[DistributorJob, Worker] = {}


@dataclass(frozen=True)
class DistributorJob:
    """Called by img2dataset's distributors instead of its downloader: `(True, plan)` if the shard was finished."""

    settings: tuple[Any, ...]
    log: Path
    is_child: bool

    def __call__(self, plan: ShardPlan) -> tuple[bool, ShardPlan]:
        try:
            with explain_import_errors():
                if self not in _prepared:
                    if self.is_child:
                        die_with_parent()
                    _prepared.clear()
                    _prepared[self] = set_up(*self.settings, log=self.log)
                fetch_shard(_prepared[self], plan)
        except Exception:  # otherwise it would end the others without a reason
            traceback.print_exc()
            return False, plan
        return True, plan

    def __hash__(self) -> int:
        return hash(self.log)


def distribute(
    name: Distributor, plans: list[ShardPlan], settings: tuple[Any, ...], workers: int, log: Path
) -> Iterator[Fetched]:
    """Yield the shards of `plans` when they are finished. DatacompError if some were not; finished ones are kept."""
    if name not in get_args(Distributor):
        raise SpecError(f"Unknown distributor {name!r}: choose one of {', '.join(get_args(Distributor))}.")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset's import would check the web for updates
    out: Folder = settings[2]
    waiting = {stats_name(shard_name(plan.number)): plan for plan in plans}
    problems: list[BaseException] = []
    work = threading.Thread(
        target=_run, args=(name, plans, DistributorJob(settings, log, name == "multiprocessing"), workers, problems)
    )
    work.daemon = True
    work.start()
    pause = LOOK_SECONDS
    while True:
        work.join(pause)
        ended = not work.is_alive()
        began = time.monotonic()
        there = set(out.files("_stats.json"))
        pause = max(LOOK_SECONDS, 20 * (time.monotonic() - began))  # avoid listing a large bucket too often
        for file in [file for file in waiting if file in there]:
            yield Fetched(waiting.pop(file), (), out.read_json(file))
        if ended:
            break
    if problems and isinstance(problems[0], MissingLibraryError):
        raise problems[0]
    if problems:
        raise DatacompError(f"img2dataset's {name} distributor failed: {problems[0]}") from problems[0]
    if waiting and (missing := _missing_library(log)):
        raise MissingLibraryError(missing)
    if waiting:
        raise DatacompError(
            f"img2dataset's {name} distributor did not finish {len(waiting)} of {len(plans)} shards (the first is "
            f"{next(iter(waiting))[:8]}): read its workers' log and run again; finished shards are kept."
        )


def _missing_library(log: Path) -> str:
    """Return what the workers' log says about a library that cannot be imported."""
    text = log.read_text(errors="replace") if log.exists() else ""
    [*_, last] = ["", *re.findall(rf"{MissingLibraryError.__name__}: (.+)", text)]
    return last


def _run(name: str, plans: list[ShardPlan], job: DistributorJob, workers: int, problems: list[BaseException]) -> None:
    try:
        with explain_import_errors():
            RUN[name](plans, job, workers)
    except BaseException as problem:  # passed to the waiting thread
        problems.append(problem)


def _multiprocessing(plans: list[ShardPlan], job: DistributorJob, workers: int) -> None:
    from img2dataset.distributor import multiprocessing_distributor

    multiprocessing_distributor(workers, job, plans, SHARDS_OF_A_SPARK_JOB, 0)


def _ray(plans: list[ShardPlan], job: DistributorJob, workers: int) -> None:
    engines.required("ray")
    from img2dataset.distributor import ray_distributor

    start_ray()
    ray_distributor(workers, job, plans, SHARDS_OF_A_SPARK_JOB, 0)


def _pyspark(plans: list[ShardPlan], job: DistributorJob, workers: int) -> None:
    try:
        from pyspark.conf import SparkConf  # pyright: ignore[reportMissingImports]
        from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise SpecError("The distributor 'pyspark' is not installed: pip install pyspark (it needs a Java runtime).") from problem
    from img2dataset.distributor import pyspark_distributor

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault(
        "PYTHONPATH", os.pathsep.join(path for path in sys.path if path)
    )  # workers can import what we can import
    builder: Any = SparkSession.builder.appName("datacomp")
    if not SparkConf().contains("spark.master"):  # spark-submit gives one; here it is this machine
        builder = builder.master(f"local[{workers}]").config("spark.ui.enabled", "false")
    session = builder.getOrCreate()
    try:
        pyspark_distributor(workers, job, plans, SHARDS_OF_A_SPARK_JOB, 0)
    finally:
        session.stop()


RUN: dict[str, Callable[[list[ShardPlan], DistributorJob, int], None]] = {
    "multiprocessing": _multiprocessing,
    "pyspark": _pyspark,
    "ray": _ray,
}
