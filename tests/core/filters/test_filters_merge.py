"""Merging the runs of very many parts: bounded in open files, the bytes those of a sort of the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datacomp_core import uid
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
