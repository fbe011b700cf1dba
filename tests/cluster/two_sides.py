"""A Ray or Dask cluster whose scheduler stands on one machine and whose workers stand on the other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from machines import TREE, Machine

HERE = {"PYTHONPATH": str(TREE), "DATACOMP_DEVICE": "cpu"}
BIN = Path(sys.executable).parent


def ray_cluster(driver: Machine, other: Machine, cpus: int = 2, gpus: int = 0) -> dict[str, str]:
    """The environment of a driver. Its own machine has no free core, so all work is done on the other one.

    `gpus` are only said to be there.
    """
    common = ["--disable-usage-stats", "--num-gpus=0", "--object-store-memory=100000000"]
    head = ["start", "--head", f"--node-ip-address={driver.address}", "--port=6379", "--num-cpus=0", "--include-dashboard=false"]
    told = driver.run([*_python("ray.scripts.scripts"), *head, *common], HERE)
    assert told.returncode == 0, told.stdout + told.stderr
    join_ray(driver, other, cpus, gpus)
    return {"DATACOMP_ENGINE": "ray", "RAY_ADDRESS": f"{driver.address}:6379"}


def join_ray(driver: Machine, other: Machine, cpus: int, gpus: int = 0) -> None:
    worker = ["start", f"--address={driver.address}:6379", f"--node-ip-address={other.address}", f"--num-cpus={cpus}"]
    common = ["--disable-usage-stats", f"--num-gpus={gpus}", "--object-store-memory=100000000"]
    told = other.run([*_python("ray.scripts.scripts"), *worker, *common], HERE)
    assert told.returncode == 0, told.stdout + told.stderr


def dask_cluster(driver: Machine, other: Machine, workers: int = 2, gpus: int = 0) -> dict[str, str]:
    """The environment of a driver; the scheduler is beside it, the workers on the other machine, with so many GPUs each."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = ["distributed.cli.dask_scheduler", f"--host={driver.address}", "--port=8786", "--no-dashboard"]
    driver.start([*_python(*scheduler)], HERE, **quiet)
    time.sleep(2)
    join_dask(driver, other, workers, gpus)
    return {"DATACOMP_ENGINE": "dask", "DASK_SCHEDULER_ADDRESS": f"tcp://{driver.address}:8786"}


def join_dask(driver: Machine, other: Machine, workers: int = 2, gpus: int = 0) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = ["distributed.cli.dask_worker", f"tcp://{driver.address}:8786", f"--host={other.address}", f"--nworkers={workers}"]
    resources = ["--resources", f"GPU={gpus}"] if gpus else []
    other.start([*_python(*worker), "--nthreads=1", "--no-dashboard", "--memory-limit=0", *resources], HERE, **quiet)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
