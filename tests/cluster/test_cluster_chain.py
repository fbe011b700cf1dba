"""The chain on Ray and Dask over two machines that share a bucket and nothing else: the bytes of one machine; lost workers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import BUCKET, TREE, Machine, machines, why_not
from two_sides import dask_cluster, ray_cluster

REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(REASON), reason=REASON or "-"),
]
CHAIN = str(Path(__file__).with_name("chain.py"))


def run(machine: Machine, environment: Mapping[str, str], *steps: str, timeout: float = 1500) -> tuple[dict[str, Any], str]:
    """What each step made, and the log."""
    given = {"PYTHONPATH": str(TREE), "DATACOMP_DEVICE": "cpu", **environment}
    told = machine.run([sys.executable, "-u", CHAIN, *steps], given, timeout=timeout)
    found = {line["step"]: line for line in map(json.loads, told.stdout.splitlines())}
    failed = {name: line["error"] for name, line in found.items() if "error" in line}
    assert not failed, f"{failed}\n{told.stderr[-6000:]}"
    assert told.returncode == 0, told.stderr[-6000:]
    return {name: line["digests"] for name, line in found.items()}, told.stderr


def store(name: str) -> dict[str, str]:
    return {"DATACOMP_STORE": f"s3://{BUCKET}/{name}", "DATACOMP_WORKERS": "2"}


def left_in_scratch(machine: Machine) -> list[str]:
    script = f"import s3fs; print('\\n'.join(s3fs.S3FileSystem().find({BUCKET!r})))"
    return [line for line in machine.run([sys.executable, "-c", script]).stdout.splitlines() if "/scratch/" in line]


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_every_step_gives_the_bytes_of_one_machine_and_leaves_nothing(engine: str) -> None:
    with machines("machine-a", "machine-b") as (a, b):
        alone, _ = run(a, store("alone"))
        cluster = ray_cluster(a, b) if engine == "ray" else dask_cluster(a, b)
        shared, log = run(a, {**store("shared"), **cluster, "DATACOMP_ENGINE": engine})
        assert shared == alone
        assert "items on machine-b" in log
        assert "items on machine-a" not in log
        assert left_in_scratch(a) == []


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_worker_that_is_killed_in_mid_step_does_not_end_it(engine: str) -> None:
    with machines("machine-a", "machine-b") as (a, b):
        alone, _ = run(a, store("alone"), "images")
        cluster = ray_cluster(a, b) if engine == "ray" else dask_cluster(a, b)
        killed: list[int] = []
        stop = threading.Event()

        def kill_one() -> None:
            while not stop.wait(0.5) and not killed:
                if _some_are_written(a, "shared"):
                    killed.append(b.kill_all("ray::_Actor.work" if engine == "ray" else "multiprocessing.spawn", at_most=1))

        killer = threading.Thread(target=kill_one)
        killer.start()
        try:
            shared, _ = run(a, {**store("shared"), **cluster, "DATACOMP_ENGINE": engine}, "images")
        finally:
            stop.set()
            killer.join()
        assert killed == [1]
        assert shared == alone


def _some_are_written(machine: Machine, name: str) -> bool:
    script = f"import s3fs; print(sum(f.endswith('_stats.json') for f in s3fs.S3FileSystem().find({BUCKET + '/' + name!r})))"
    return machine.run([sys.executable, "-c", script]).stdout.strip() not in {"", "0"}


@pytest.mark.xfail(strict=True, reason="the workers of a filter still share the driver's scratch folder")
def test_filters_need_no_shared_disk() -> None:
    with machines("machine-a", "machine-b") as (a, b):
        cluster = dask_cluster(a, b)
        found, log = run(a, {**store("shared"), **cluster, "SHARED_OUT": "filters"}, "filter-columns", timeout=400)
        assert found["filter-columns"]
        assert "items on machine-b" in log


def test_ray_with_fewer_cores_than_workers_goes_on_and_a_full_cluster_says_so() -> None:
    with machines("machine-a", "machine-b") as (a, b):
        cluster = ray_cluster(a, b, cpus=1)
        given = {**store("few"), "DATACOMP_WORKERS": "5", **cluster}
        found, _ = run(a, given, "score-words", timeout=400)
        assert found["score-words"]


def test_a_driver_whose_store_lies_on_its_own_disk_is_refused_in_one_sentence() -> None:
    with machines("machine-a", "machine-b") as (a, b):
        cluster = dask_cluster(a, b)
        given = {"PYTHONPATH": str(TREE), "DATACOMP_WORKERS": "2", "DATACOMP_STORE": "/tmp/store", **cluster}
        told = a.run([sys.executable, "-u", CHAIN, "images"], given, timeout=300)
        error = json.loads(told.stdout.splitlines()[-1])["error"]
        assert error.startswith("SpecError: The machine machine-b does not see /tmp/store/"), error
        assert "bucket" in error
        assert b.run(["ls", "/tmp/store"]).returncode != 0
