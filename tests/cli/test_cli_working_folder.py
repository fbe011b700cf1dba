"""Files in the working folder with the names of modules are imported by nobody: not by the command, nor by what it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from client import Api
from conftest import free_port
from processes import wait_until_gone
from stack import wait_for

PROGRAM = str(Path(sys.executable).with_name("datacomp"))
OURS = ("datacomp_core", "tasks", "flows", "deployments")
LIBRARIES = ("numpy", "polars", "torch", "open_clip", "prefect", "pydantic", "httpx")
STANDARD = ("random", "tempfile", "multiprocessing", "socket", "pickle", "queue", "secrets", "statistics", "calendar", "copy")
IMPORTED = """
import os, sys
with open({hits!r}, "a") as file:
    file.write(f"{{__name__}} by {{sys.orig_argv}}\\n")
raise ImportError("a file of the working folder was imported")
"""


class Place:
    """A working folder full of such files, and what imported one."""

    def __init__(self, folder: Path) -> None:
        self.work, self.home, self.hits = folder / "work", folder / "home", folder / "hits"
        self.work.mkdir()
        for name in (*OURS, *LIBRARIES, *STANDARD):
            (self.work / f"{name}.py").write_text(IMPORTED.format(hits=str(self.hits)))

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DATACOMP_", "PYTHON"))}
        return {**kept, "DATACOMP_HOME": str(self.home), **more}

    def datacomp(self, *words: str, **more: str) -> None:
        done = subprocess.run(
            [PROGRAM, *words], cwd=self.work, env=self.environment(**more), capture_output=True, text=True, timeout=1500
        )
        self.require_none()
        assert done.returncode == 0, done.stderr[-3000:]

    @contextmanager
    def started(self, *words: str, **more: str) -> Generator[None]:
        with (self.work.parent / f"{words[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [PROGRAM, *words], cwd=self.work, env=self.environment(**more), stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def require_none(self) -> None:
        assert not self.hits.exists(), self.hits.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path)
    assert wait_until_gone(str(tmp_path)) == []


def test_the_files_tell_who_imports_them(place: Place) -> None:
    """Else the tests below would see nothing."""
    ran = subprocess.run([sys.executable, "-c", "import tasks"], cwd=place.work, env=place.environment(), check=False)
    assert ran.returncode == 1
    assert place.hits.read_text().startswith("tasks by")


def test_a_command_on_plain_folders(place: Place) -> None:
    (place.work / "metadata").mkdir()
    for part in range(3):
        uids = [f"{100 * part + row:032x}" for row in range(50)]
        table = pl.DataFrame({"uid": uids, "text": [f"a dog of {part} years" for _ in uids]})
        table.write_parquet(place.work / "metadata" / f"{part:08d}.parquet")
    (place.work / "mine.py").write_text(
        "import polars as pl\nfrom datacomp_core.filters import RowFilter, register\n\n\n"
        '@register("first_years")\nclass FirstYears(RowFilter):\n    """Young dogs."""\n\n'
        '    def expression(self) -> pl.Expr:\n        return pl.col("text").str.contains("0|1")\n'
    )
    place.datacomp("filter", "--metadata", "metadata", "-r", "mine.py", "--out", "subset.npy", DATACOMP_WORKERS="2")
    place.datacomp("filter", "--metadata", "metadata", "-r", "english", "--out", "subset.npy", DATACOMP_WORKERS="2")


COSTLY = """
import os, sys
import polars as pl
from datacomp_core.filters import RowFilter, register
from datacomp_core.filters.base import FeatureFilter


@register("in_workers")
class InWorkers(RowFilter):
    \"\"\"Every second row, and who says so.\"\"\"

    cost = FeatureFilter.cost

    def expression(self) -> pl.Expr:
        with open({seen!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{' '.join(sys.orig_argv)}} {{sys.path}}\\n")
        return pl.col("text").str.ends_with("even")
"""


@pytest.mark.parametrize("engine", [pytest.param("ray", marks=pytest.mark.slow), pytest.param("dask", marks=pytest.mark.slow)])
def test_workers_of_a_cluster_import_nothing_from_it(engine: str, place: Place) -> None:
    """Ray puts the driver's working folder first on its workers' path."""
    (place.work / "metadata").mkdir()
    for part in range(4):
        uids = [f"{10_000 * part + row:032x}" for row in range(10_000)]
        table = pl.DataFrame({"uid": uids, "text": [("odd" if int(uid, 16) % 2 else "even") for uid in uids]})
        table.write_parquet(place.work / "metadata" / f"{part:08d}.parquet")
    seen = place.work.parent / "seen"
    (place.work / "mine.py").write_text(COSTLY.format(seen=str(seen)))
    command = ("filter", "--metadata", "metadata", "-r", "mine.py", "--out", "subset.npy")
    place.datacomp(*command, DATACOMP_WORKERS="2", DATACOMP_ENGINE=engine)
    by = {"ray": "default_worker.py", "dask": "multiprocessing"}[engine]
    workers = [line for line in seen.read_text().splitlines() if by in line]
    assert workers, seen.read_text()
    assert not any(f"'{place.work}'" in line or "''" in line for line in workers), workers[0]
    chosen = np.load(place.work / "subset.npy")
    assert len(chosen) == 20_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_with_its_server_its_processes_and_its_training(place: Place) -> None:
    place.datacomp("run", "-r", "random_30", DATACOMP_WORKERS="2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_server_a_worker_and_a_run_on_it(place: Place) -> None:
    port = free_port()
    api = Api(f"http://127.0.0.1:{port}/api", "")
    known = {"PREFECT_API_URL": api.url}
    with place.started("ui", "--port", str(port)):
        wait_for(lambda: _answers(api), 300, "the server")
        place.datacomp("deploy", "--scale", "tiny", **known)
        with place.started("worker", "cpu", **known):
            run = api.start("prepare-pool/prepare-pool-tiny")
            ended = api.wait(run, 900)
            place.require_none()
            assert ended["state"]["type"] == "COMPLETED", ended["state"]


def _answers(api: Api) -> bool:
    try:
        api.call("GET", "/health")
    except OSError:
        return False
    return True
