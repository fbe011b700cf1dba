"""100,000 indices of which one hangs: the order of the shards, bounded memory, and a line that says which one it is."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from datacomp_core.ordered_results import MOST_IN_MEMORY, results_by_number, results_in_order
from datacomp_core.progress import LogProgress
from datacomp_core.resharding import shard_scan
from datacomp_core.resharding.plan import ROW
from datacomp_core.resharding.shard_scan import InputShard, LostSamples, ScannedShard

ROWS = 100


def made(number: int) -> np.ndarray:
    return np.full((ROWS, 5), number, np.int64)  # 4 kB, as 100 samples of a shard are


def save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def load(path: Path, number: int) -> np.ndarray:
    return np.load(path)


def test_what_a_scan_found_survives_the_disk(tmp_path: Path) -> None:
    shard = InputShard(3, 0, "00000003", 100, True, "")
    uids = np.array([(1, 2), (3, 4)], [("f0", "u8"), ("f1", "u8")])
    rows = np.zeros(2, ROW)
    rows["f0"], rows["f1"], rows["offset"], rows["key"] = uids["f0"], uids["f1"], [0, 512], 7
    lost = (
        LostSamples("corrupt", "cut", np.array([5]), np.array([1])),
        LostSamples("not_in_part", "", np.array([8, 9]), np.array([2, 1])),
    )
    found = ScannedShard(shard, rows, np.array([1, 2]), np.array([1, 3]), lost, "it ends", '{"image": "png"}')
    shard_scan.save(tmp_path / "x.npz", found)
    again = shard_scan.load(tmp_path / "x.npz", shard)
    assert repr(again) == repr(found)
    assert again.rows.dtype == ROW


def hang(number: int, hung: int, folder: str) -> tuple[int, int, list[str], str]:
    """The results seen in turn, the peak of memory in bytes, lines of the progress, its last line. For a process of its own."""
    tempfile.tempdir = folder
    progress, lines = LogProgress("plan", every=60.0), list[str]()
    progress.start(number, "indices")

    def found() -> Iterator[tuple[int, np.ndarray]]:
        for shard in range(number):
            if shard != hung:
                yield shard, made(shard)
            if shard % 1000 == 0:
                lines.append(progress.line())
        yield hung, made(hung)

    names = {shard: f"s3://bucket/{shard:08d}" for shard in range(number)}
    tracemalloc.start()
    seen = 0
    for array in results_by_number(found(), names, save, load, progress):
        assert array[0, 0] == array[-1, -1] == seen
        seen += 1
    _, peak = tracemalloc.get_traced_memory()
    return seen, peak, lines, progress.line()


@pytest.mark.parametrize(("number", "hung"), [pytest.param(100_000, 0, marks=pytest.mark.slow), (3_000, 1_500)])
def test_a_hanging_shard_bounds_the_memory_and_is_named(number: int, hung: int, tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # other threads of the tests' process allocate, too
        seen, peak, lines, last = process.submit(hang, number, hung, str(tmp_path)).result()
    assert seen == number
    assert peak < 4 * MOST_IN_MEMORY * made(0).nbytes + 300 * number
    assert any(f"wait for s3://bucket/{hung:08d}" in line for line in lines)
    assert "wait for" not in last
    assert list(tmp_path.iterdir()) == [], "nothing is left on the disk"


@pytest.mark.parametrize("most", [0, 1, 5, 1000])
def test_results_come_in_the_order_of_their_items_whatever_was_done_first(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    items = [f"part {number}" for number in range(60)]
    done = [(item, (place, np.full(3, place), 0.5)) for place, item in enumerate(items)]
    random.Random(most).shuffle(done)
    found = list(results_in_order(done, items, most))
    assert [(place, values.tolist(), half) for place, values, half in found] == [(n, [n, n, n], 0.5) for n in range(60)]
    assert list(results_in_order([], [])) == []
    assert list(tmp_path.iterdir()) == [], "nothing is left on the disk"
