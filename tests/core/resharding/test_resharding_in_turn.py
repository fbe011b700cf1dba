"""100,000 indices of which one hangs: the order of the shards, bounded memory, and a line that says which one it is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datacomp_core.progress import LogProgress
from datacomp_core.resharding.in_turn import MOST_IN_MEMORY, in_turn
from datacomp_core.store import scratch

ROWS = 100


def made(number: int) -> np.ndarray:
    return np.full((ROWS, 5), number, np.int64)  # 4 kB, as 100 samples of a shard are


@pytest.mark.parametrize(("number", "hung"), [pytest.param(100_000, 0, marks=pytest.mark.slow), (3_000, 1_500)])
def test_a_hanging_shard_bounds_the_memory_and_is_named(number: int, hung: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
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
    for array in in_turn(found(), 0, names, progress):
        assert array[0, 0] == array[-1, -1] == seen
        seen += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == number
    assert peak < 4 * MOST_IN_MEMORY * made(0).nbytes + 300 * number
    assert any(f"wait for s3://bucket/{hung:08d}" in line for line in lines)
    assert "wait for" not in progress.line()
    with scratch():
        pass
    assert list(tmp_path.iterdir()) == [], "nothing is left on the disk"
