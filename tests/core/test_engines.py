"""Ray and Dask for real: the same results, errors, deaths and limits as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from datacomp_core import engines
from datacomp_core.engines import Engine
from datacomp_core.errors import DatacompError, DataError, LostProcessError, SpecError
from datacomp_core.parallel import prepared_map, process_map

CLUSTERS = [
    "dask",
    pytest.param("ray", marks=pytest.mark.slow),
]


def square(value: int) -> int:
    return value * value


def fail_at_three(value: int) -> int:
    if value == 3:
        raise DataError("three is broken")
    return value


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def no_model() -> int:
    raise DataError("no model here")


def own_pid() -> int:
    return os.getpid()


def both(prepared: int, value: int) -> tuple[int, int]:
    time.sleep(0.01)
    return prepared, os.getpid()


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_cluster_gives_what_one_process_gives(engine: Engine) -> None:
    with engines.using(engine):
        found = sorted(process_map(square, range(300), workers=2))
    assert found == [(i, i * i) for i in range(300)]


@pytest.mark.parametrize("engine", CLUSTERS)
def test_every_worker_prepares_itself_and_works_apart_from_us(engine: Engine) -> None:
    made = [pair for _, pair in prepared_map(both, range(60), prepare=own_pid, workers=2, engine=engine)]
    assert all(prepared == worked for prepared, worked in made)
    assert os.getpid() not in {worked for _, worked in made}


@pytest.mark.parametrize("engine", CLUSTERS)
def test_an_error_arrives_as_it_was_raised(engine: Engine) -> None:
    with pytest.raises(DataError, match="^three is broken$"):
        list(process_map(fail_at_three, range(6), workers=2, engine=engine))
    with pytest.raises(DataError, match="^no model here$"):
        list(prepared_map(both, range(3), prepare=no_model, workers=2, engine=engine))
    assert len(list(process_map(square, range(4), workers=2, engine=engine))) == 4


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_killed_worker_is_one_sentence_and_the_next_map_works(engine: Engine) -> None:
    with pytest.raises(DatacompError, match="worker process was killed"):
        list(process_map(die, range(3), workers=2, engine=engine))
    assert sorted(process_map(square, range(4), workers=2, engine=engine)) == [(i, i * i) for i in range(4)]


# Prefect's tasks are threads that end; a map of the next one finds the cluster that the last one started.
TWO_THREADS = """
import threading, time
from datacomp_core.parallel import process_map
from operator import neg

def one_map():
    print(sorted(process_map(neg, range(3), workers=2, engine="{engine}")), flush=True)

if __name__ == "__main__":
    for _ in range(2):
        thread = threading.Thread(target=one_map)
        thread.start()
        thread.join()
        time.sleep(1)
"""


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_cluster_outlives_the_thread_that_started_it(engine: Engine, tmp_path: Path) -> None:
    script = tmp_path / "two_threads.py"
    script.write_text(TWO_THREADS.format(engine=engine))
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200)
    wanted = str([(i, -i) for i in range(3)])
    assert (told.returncode, told.stdout.splitlines()) == (0, [wanted, wanted]), told.stderr


@pytest.mark.parametrize("engine", CLUSTERS)
def test_endless_items_are_taken_no_faster_than_they_are_done(engine: Engine) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10**9):
            taken.append(i)
            yield i

    results = process_map(square, items(), workers=2, engine=engine)
    next(results)
    assert len(taken) <= 4 * engines.MAX_BATCH
    results.close()  # pyright: ignore


def test_an_engine_that_is_unknown_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="choose one of local, ray, dask"), engines.using("spark"):
        pass
    monkeypatch.setitem(engines.MODULES, "ray", "no_such_package")
    with pytest.raises(SpecError, match=r"pip install 'datacomp\[ray\]'"), engines.using("ray"):
        pass


GPUS = """
import json, os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from datacomp_core import engines
from datacomp_core.parallel import prepared_map

def device():
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()

def work(prepared, item):
    time.sleep(0.2)
    mark = Path(os.environ["MARK"])
    if item == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return prepared

if __name__ == "__main__":
    if sys.argv[1] == "ray":
        import ray
        ray.init(num_gpus=2, include_dashboard=False, log_to_driver=False)
    else:
        from distributed import LocalCluster
        # A worker that is killed is started again by its nanny.
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, resources={"GPU": 1}, dashboard_address="127.0.0.1:0")
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
    with engines.using(sys.argv[1]):
        cores = engines.cluster_cores(sys.argv[1], gpus=1)
        found = list(prepared_map(work, range(24), prepare=device, workers=5, gpus=1))
    print(json.dumps({"gpus": cores, "items": sorted(item for item, _ in found), "workers": [worker for _, worker in found]}))
"""


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("dask", marks=pytest.mark.slow),
        pytest.param("ray", marks=pytest.mark.slow),
    ],
)
def test_workers_hold_a_gpu_each_and_the_chunk_of_a_lost_one_is_done_by_another(engine: str, tmp_path: Path) -> None:
    (tmp_path / "gpus.py").write_text(GPUS)
    told = subprocess.run(
        [sys.executable, str(tmp_path / "gpus.py"), engine],
        env={**os.environ, "MARK": str(tmp_path / "killed")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert (tmp_path / "killed").exists()
    assert found["gpus"] == 2
    assert found["items"] == list(range(24)), "each item once, the lost ones too"
    assert len({pid for _, pid in found["workers"]}) >= 2
    if engine == "ray":
        assert {devices for devices, _ in found["workers"]} <= {"0", "1"}, "one GPU each, of five workers two at a time"


ALL_DIE = """
import os, signal
from pathlib import Path
from types import SimpleNamespace
from datacomp_core.parallel import process_map

def work(item):
    died = Path(os.environ["DIED"], f"died-{item}")
    if item < 2 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -item

if __name__ == "__main__":
    found = sorted(process_map(work, range(8), workers=2, engine="dask"))
    assert found == [(item, -item) for item in range(8)], found
"""


@pytest.mark.slow
def test_lost_workers_of_dask_that_take_long_to_begin_again_are_waited_for(tmp_path: Path) -> None:
    """Dask itself gives up lost workers after 15 s; here after 10 ms, and no worker would be left."""
    (tmp_path / "all_die.py").write_text(ALL_DIE)
    told = subprocess.run(
        [sys.executable, str(tmp_path / "all_die.py")],
        env={**os.environ, "DIED": str(tmp_path), "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "10ms"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    assert len(list(tmp_path.glob("died-*"))) == 2


def test_a_cluster_without_a_worker_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Or an embedding would work on a CPU, and a step with one worker, because the cluster began a moment later."""
    sizes = iter([0, 0, 0, 0, 4, 4, 0])
    cluster = SimpleNamespace(size=lambda _: next(sizes), machines=lambda: 2)
    monkeypatch.setattr(engines, "_module", lambda _: cluster)
    monkeypatch.setattr(engines, "WAKE_SECONDS", 0)
    monkeypatch.setattr(engines, "TELL_SECONDS", -1)
    assert engines.cluster_cores("dask") == 4
    assert "waiting for workers of the dask cluster: it has none" in caplog.text
    cluster.size = lambda _: 0
    monkeypatch.setattr(engines, "START_SECONDS", -1)
    with pytest.raises(LostProcessError, match="No worker of the ray cluster began"):
        engines.cluster_machines("ray")
