"""The chain on Ray and Dask over two machines that share a bucket and nothing else: the bytes of one machine; lost workers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import BUCKET, SHARED, TREE, Machine, machines, why_not
from two_sides import dask_cluster, join_dask, join_ray, ray_cluster

PATIENCE = 5400
"""Seconds: all steps take ten minutes on two free cores, and an hour beside other work."""
REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(4 * PATIENCE),
    pytest.mark.skipif(bool(REASON), reason=REASON or "-"),
]
CHAIN = str(Path(__file__).with_name("chain.py"))


def run(machine: Machine, environment: Mapping[str, str], *steps: str, timeout: float = PATIENCE) -> tuple[dict[str, Any], str]:
    """What each step made, and the log."""
    given = {"PYTHONPATH": str(TREE), "DATACOMP_DEVICE": "cpu", **environment}
    told = machine.run([sys.executable, "-u", CHAIN, *steps], given, timeout=timeout)
    lines = [line for line in told.stdout.splitlines() if line.startswith("{")]  # Ray tells of a lost worker there too
    found = {line["step"]: line for line in map(json.loads, lines)}
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
        work = "ray::_Actor.work" if engine == "ray" else "multiprocessing.spawn"
        with killing(lambda: b.kill_all(work, at_most=1) if _some_are_written(a, "shared") else 0) as killed:
            shared, _ = run(a, {**store("shared"), **cluster, "DATACOMP_ENGINE": engine}, "images")
        assert killed[-1] == 1
        assert shared == alone


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_machine_that_is_taken_away_in_mid_step_does_not_end_it(engine: str) -> None:
    """All that runs on one of two workers' machines is gone at once, and does not come back."""
    with machines("machine-a", "machine-b", "machine-c") as (a, b, c):
        alone, _ = run(a, store("alone"), "images")
        cluster = ray_cluster(a, b) if engine == "ray" else dask_cluster(a, b)
        join_ray(a, c, cpus=2) if engine == "ray" else join_dask(a, c)
        given = {**store("shared"), "DATACOMP_WORKERS": "4", **cluster, "DATACOMP_ENGINE": engine}
        with killing(lambda: b.kill_all("(ray|distributed|multiprocessing)") if _some_are_written(a, "shared") else 0) as killed:
            shared, log = run(a, given, "images")
        assert killed[-1] > 1
        assert shared == alone
        assert "items on machine-c" in log


def test_two_drivers_on_two_machines_at_one_address_make_one_artifact() -> None:
    """Both begin at once; both end with the same; one of two more is killed, and the other's is what it would have made."""
    with machines("machine-a", "machine-b") as (a, b):
        alone, _ = run(a, store("alone"), "images")
        given = {"PYTHONPATH": str(TREE), "DATACOMP_DEVICE": "cpu", **store("both")}
        command = [sys.executable, "-u", CHAIN, "images"]
        other = b.start(command, given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        both, _ = run(a, store("both"), "images")
        told, log = other.communicate(timeout=PATIENCE)
        assert other.returncode == 0, log[-3000:]
        assert json.loads(told.splitlines()[-1])["digests"] == both["images"] == alone["images"]
        assert len(records(a, "both")) == 1
        other = b.start(command, {**given, **store("killed")}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with killing(lambda: b.kill_all("chain.py") if _some_are_written(a, "killed") else 0) as killed:
            ended, _ = run(a, store("killed"), "images")
            other.wait(timeout=PATIENCE)
        assert ended == alone
        assert len(records(a, "killed")) == 1
        del killed  # one of them may have ended before a picture was seen


def records(machine: Machine, name: str) -> list[str]:
    script = f"import s3fs; print('\\n'.join(s3fs.S3FileSystem().find({BUCKET + '/' + name + '/shards'!r})))"
    found = machine.run([sys.executable, "-c", script]).stdout.splitlines()
    return [line for line in found if line.rsplit("/", 1)[-1].startswith("_artifact")]


def _some_are_written(machine: Machine, name: str) -> bool:
    script = f"import s3fs; print(sum(f.endswith('_stats.json') for f in s3fs.S3FileSystem().find({BUCKET + '/' + name!r})))"
    return machine.run([sys.executable, "-c", script]).stdout.strip() not in {"", "0"}


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_workers_with_a_gpu_each_embed_and_evaluate_and_a_lost_one_is_replaced(engine: str) -> None:
    """The GPUs are only declared: the scheduling is the real one, the work is done on cores."""
    steps = ("embed", "evaluate")
    with machines("machine-a", "machine-b") as (a, b):
        alone, _ = run(a, store("alone"), *steps)
        cluster = ray_cluster(a, b, gpus=2) if engine == "ray" else dask_cluster(a, b, gpus=1)
        given = {**store("shared"), **cluster, "DATACOMP_ENGINE": engine}
        run(a, given, "images")
        work = "ray::_Actor.work" if engine == "ray" else "multiprocessing.spawn"
        with killing(lambda: b.kill_all(work, at_most=1)) as killed:
            shared, log = run(a, {**given, "DATACOMP_DEVICE": ""}, *steps)
        assert killed[-1] == 1
        assert shared == alone
        assert "items on machine-b" in log
        assert left_in_scratch(a) == []


@contextmanager
def killing(kill: Callable[[], int]) -> Iterator[list[int]]:
    """Try to kill several times a second until something was."""
    killed: list[int] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.1) and not any(killed):
            killed.append(kill())

    killer = threading.Thread(target=work)
    killer.start()
    try:
        yield killed
    finally:
        stop.set()
        killer.join()


def test_ray_with_fewer_cores_than_workers_goes_on_and_a_full_cluster_says_so() -> None:
    with machines("machine-a", "machine-b") as (a, b):
        cluster = ray_cluster(a, b, cpus=1)
        given = {**store("few"), "DATACOMP_WORKERS": "5", **cluster}
        found, _ = run(a, given, "score-words", timeout=PATIENCE)
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


def test_a_training_on_nodes_without_a_shared_disk_is_refused_in_one_sentence_at_its_start() -> None:
    with machines("machine-a", "machine-b") as (a, b):
        told, status, log = train_on_both(a, b, "/tmp/own")
        error = json.loads(told.stdout.splitlines()[-1])["error"]
        wanted = (
            "SpecError: Another node cannot take part in this training. The machine machine-b does not see /tmp/own/training/"
        )
        assert error.startswith(wanted), told.stderr[-3000:]
        assert "share a disk" in error
        assert status == 0
        assert "does not see /tmp/own/training/" in log


def test_a_training_on_nodes_that_share_a_disk_gives_the_weights_of_one_machine(tmp_path: Path) -> None:
    with machines("machine-a", "machine-b", shared=tmp_path) as (a, b):
        alone, _ = run(a, {**store("alone"), "DATACOMP_PROCESSES": "2"}, "train")
        told, status, log = train_on_both(a, b, SHARED)
        assert told.returncode == status == 0, told.stderr[-3000:] + log[-3000:]
        made = json.loads(told.stdout.splitlines()[-1])["digests"]
        assert made["checkpoint.safetensors"] == alone["train"]["checkpoint.safetensors"]
        assert "node 1 took part in 1 trainings that completed" in log


def train_on_both(a: Machine, b: Machine, home: str) -> tuple[subprocess.CompletedProcess[str], int, str]:
    """A training that spans two machines, whose DATACOMP_HOME is `home`: what node 0 told, node 1's status and its log."""
    given = {"PYTHONPATH": str(TREE), "DATACOMP_DEVICE": "cpu", "DATACOMP_HOME": home, **store("nodes")}
    node = [sys.executable, "-m", "deployments.cli", "node", "--nodes", "2", "--rendezvous", f"{a.address}:29500"]
    node += ["--run-id", "pair", "--processes", "1", "--node"]
    other = b.start([*node, "1", "--", "true"], given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told = a.run([*node, "0", "--", sys.executable, "-u", CHAIN, "train"], given, timeout=PATIENCE)
    _, log = other.communicate(timeout=300)
    return told, other.returncode, log
