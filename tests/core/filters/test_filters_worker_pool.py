"""Who makes a pass over the parts: threads, or processes where the rows are many; every part once, in both."""

from __future__ import annotations

import os
from pathlib import Path

import filter_world as world
import pytest

from datacomp_core.filters import TopFraction
from datacomp_core.recipes.base import Recipe
from datacomp_core.selection import worker_pool
from datacomp_core.selection.select import select
from datacomp_core.selection.worker_pool import ROWS_FOR_PROCESSES, THREADS, WorkerPool
from datacomp_core.store import Folder

NAMES = [f"{number:08d}" for number in range(20)]


def worked(name: str) -> tuple[str, int]:
    return name.upper(), os.getpid()


@pytest.mark.parametrize(
    ("workers", "num_rows", "is_apart"),
    [
        (THREADS + 1, ROWS_FOR_PROCESSES, True),
        (THREADS, ROWS_FOR_PROCESSES, False),
        (THREADS + 1, ROWS_FOR_PROCESSES - 1, False),
        (1, 0, False),
    ],
)
def test_columns_of_many_rows_are_read_by_processes(workers: int, num_rows: int, is_apart: bool) -> None:
    found = dict(WorkerPool(workers, num_rows).for_columns(worked, NAMES))
    assert sorted(found) == NAMES
    assert all(value == name.upper() for name, (value, _) in found.items())
    assert {pid != os.getpid() for _, pid in found.values()} == {is_apart}


def test_processes_and_threads_choose_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world.write(tmp_path / "m", world.rows(11, 200), 5)
    wanted = Recipe(name="best", filter=TopFraction(score="l14", fraction=0.3))
    select(wanted, source, out=Folder(tmp_path / "threads"), write="subset")
    monkeypatch.setattr(worker_pool, "ROWS_FOR_PROCESSES", 1)
    monkeypatch.setattr(worker_pool, "THREADS", 1)
    select(wanted, source, out=Folder(tmp_path / "processes"), write="subset", workers=2)
    threads, processes = ((tmp_path / name / "subset.npy").read_bytes() for name in ("threads", "processes"))
    assert threads == processes
