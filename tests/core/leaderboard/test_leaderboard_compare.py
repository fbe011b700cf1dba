"""Comparison of entries: overlap against a brute-force count, deltas and what only one side chose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import board_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.compare import compare_entries
from datacomp_core.leaderboard.overlap import overlap
from datacomp_core.store import Folder, Store


def write(folder: Folder, counts: Counter[str]) -> Folder:
    folder.write("subset.npy", uid.subset_bytes(uid.pack(pl.Series(sorted(counts.elements()), dtype=pl.String))))
    return folder


def draw(seed: int, size: int) -> Counter[str]:
    """Uids that share their first half often, with repeats up to 11."""
    noise = np.random.default_rng(seed)
    pool = [f"{i // 4:016x}{i % 4:016x}" for i in range(120)]
    return Counter({pool[i]: int(noise.integers(1, 12)) for i in noise.choice(120, size, replace=False)})


@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
@pytest.mark.parametrize(("size_a", "size_b"), [(0, 0), (0, 30), (50, 60), (120, 1), (100, 100)])
def test_overlap_is_that_of_two_counters(tmp_path: Path, chunk: int, size_a: int, size_b: int) -> None:
    a, b = draw(1, size_a), draw(2, size_b)
    found = overlap(write(Folder(tmp_path / "a"), a), write(Folder(tmp_path / "b"), b), chunk=chunk)
    assert found.total == (a.total(), b.total())
    assert found.unique == (len(a), len(b))
    assert found.shared == len(a.keys() & b.keys())
    assert found.shared_repeats == (a & b).total()
    assert found.largest == (max(a.values(), default=0), max(b.values(), default=0))
    assert found.only_first == sorted(a.keys() - b.keys())
    assert found.only_second == sorted(b.keys() - a.keys())
    either = (a | b).total()
    assert found.weighted_jaccard == pytest.approx((a & b).total() / either if either else 1.0)
    assert found.jaccard == pytest.approx(len(a.keys() & b.keys()) / len(a.keys() | b.keys()) if either else 1.0)


def test_what_is_no_subset_file_is_refused(tmp_path: Path) -> None:
    good, bad = write(Folder(tmp_path / "a"), draw(1, 5)), Folder(tmp_path / "b")
    bad.write("subset.npy", b"not one")
    with pytest.raises(DataError, match="not a subset file"):
        overlap(good, bad)
    bad.write("subset.npy", good.read("subset.npy")[:-3])
    with pytest.raises(DataError, match="truncated"):
        overlap(good, bad)


def test_two_entries_side_by_side(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    first = world.run(store, "no_filter", world.results(0.05, 0))
    second = world.run(store, "clip_score", world.results(0.14, 0))
    made = compare_entries(store, first.address, second.fingerprint)
    before, after = world.results(0.05, 0), world.results(0.14, 0)
    assert {delta.key.removeprefix("tiny/"): delta.difference for delta in made.tasks} == pytest.approx(
        {task: (after[task] or 0) - (before[task] or 0) for task in world.TASKS}
    )
    assert made.verdict is not None
    assert made.verdict.outcome == "better"
    assert "seed noise unknown" in made.verdict.basis
    kept = {world.row_uid(i) for i in range(world.NUM) if world.is_kept("clip_score", i)}
    assert made.overlap.shared == len(kept)
    assert made.overlap.containment == (pytest.approx(len(kept) / world.NUM), 1.0)
    assert made.only_second == []
    assert len(made.only_first) == min(24, world.NUM - len(kept))
    captions = {world.row_uid(i): world.caption(i) for i in range(world.NUM)}
    assert all(pair.text == captions[pair.uid] and pair.uid not in kept for pair in made.only_first)


def test_only_entries_of_one_suite_can_be_compared(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    first = world.run(store, "no_filter", world.results(0.05, 0))
    other = world.run(store, "no_filter", world.results(0.05, 0), version=2)
    with pytest.raises(SpecError, match="tiny v1"):
        compare_entries(store, first.address, other.address)
    record = store.record(first.address)
    assert record is not None
    with pytest.raises(SpecError, match="only leaderboard entries"):
        compare_entries(store, first.address, record.inputs["subset"][0]["address"])
