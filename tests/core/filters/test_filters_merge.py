"""Merging the runs of very many parts: bounded in open files, the bytes those of a sort of the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datacomp_core import sorted_runs, uid
from datacomp_core.sorted_runs import merge, write_run

FEW_FILES = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from datacomp_core.sorted_runs import merge
folder = Path(sys.argv[1])
print(*merge(sorted(folder.glob("*.npy")), folder / "subset.out"))
"""


def runs(folder: Path, number: int) -> np.ndarray:
    """Runs of 0 to 3 uids, with repeats within and among them; all of them, sorted."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    pool = chance.integers(0, 2**64, (number, 2), np.uint64).view(uid.DTYPE).ravel()
    chosen = [chance.choice(pool, chance.integers(0, 4)) for _ in range(number)]
    for part, some in enumerate(chosen):
        write_run(folder / f"{part:08d}.npy", some)
    return uid.sort(np.concatenate(chosen))


@pytest.mark.parametrize("number", [600, pytest.param(30_000, marks=pytest.mark.slow)])
def test_many_parts_are_merged_with_few_open_files(tmp_path: Path, number: int) -> None:
    expected = runs(tmp_path / "runs", number)
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(expected)), str(len(np.unique(expected)))]
    assert (np.load(tmp_path / "runs/subset.out") == expected).all()
    assert (tmp_path / "runs/subset.out").read_bytes() == uid.subset_bytes(expected)
    assert not list((tmp_path / "runs").glob(".*")), "nothing is left beside it"


def test_a_merge_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    runs(tmp_path / "runs", 30)
    (tmp_path / "runs/00000029.npy").write_bytes(b"no npy")
    with pytest.raises(ValueError, match="pickle"):
        merge(sorted((tmp_path / "runs").glob("*.npy")), tmp_path / "subset.out")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def counting(low: np.ndarray, high: int = 0) -> np.ndarray:
    packed = np.empty(len(low), uid.DTYPE)
    packed["f0"], packed["f1"] = high, low
    return packed


@pytest.mark.parametrize("way", ["counting up", "one after the other", "two high words", "one uid very often"])
def test_uids_that_are_not_random_are_merged_in_small_slices_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Uids that count up from 0 all have the same high word, by which slices are cut first."""
    chance = np.random.default_rng(0)
    parts = np.array_split(np.arange(20_000) if way == "one after the other" else chance.integers(0, 30_000, 20_000), 40)
    if way == "one uid very often":
        parts[3:] = [np.full(500, 77)] * 37
    chosen = [counting(part, place % 2 if way == "two high words" else 0) for place, part in enumerate(parts)]
    for place, some in enumerate(chosen):
        write_run(tmp_path / f"{place:08d}.npy", some)
    slices: list[int] = []
    merged = uid.merged
    monkeypatch.setattr(uid, "merged", lambda pieces: slices.append(sum(map(len, pieces))) or merged(pieces))

    made = merge(sorted(tmp_path.glob("*.npy")), tmp_path / "subset.out", slice_rows=200)

    expected = np.sort(np.concatenate(chosen))
    assert made == (len(expected), len(np.unique(expected)))
    assert (np.load(tmp_path / "subset.out") == expected).all()
    often = 37 * 500 + int((np.concatenate(parts[:3]) == 77).sum()) if way == "one uid very often" else 0
    most = max(sorted_runs.MOST_SHARES * 200, often)
    assert max(slices) <= most
