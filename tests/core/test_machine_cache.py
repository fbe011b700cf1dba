"""Copies of a bucket's files on this machine's disk: one a machine, shared by processes that use it at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from datacomp_core.machine_cache import CachedFile, CachedFolder
from datacomp_core.store import Folder

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def _hold(url: str, all_have_it: Barrier, told: Any) -> None:
    copy = CachedFile(Folder(url), "list.npy")
    told.put((copy.path.read_bytes(), copy.path.stat().st_ino))
    all_have_it.wait(60)  # nobody lets go before everybody has it


def test_processes_have_one_copy_at_the_same_time_and_the_last_removes_it(s3_url: str, tmp_path: Path) -> None:
    Folder(s3_url).write("list.npy", b"data" * 1000)
    barrier, told = SPAWN.Barrier(3), SPAWN.Queue()
    children = [SPAWN.Process(target=_hold, args=(s3_url, barrier, told)) for _ in range(3)]
    for child in children:
        child.start()
    found = [told.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert {data for data, _ in found} == {b"data" * 1000}
    assert len({inode for _, inode in found}) == 1, "fetched once"
    (home,) = tmp_path.glob("datacomp-copies-*")
    assert [path for path in home.iterdir() if path.suffix != ".lock"] == []


def _hold_for_ever(url: str, told: Any) -> None:
    copy = CachedFile(Folder(url), "list.npy")
    told.put(str(copy.path))
    time.sleep(600)


def test_what_a_killed_process_left_is_removed_by_the_next(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.write("list.npy", b"old")
    folder.write("other.npy", b"other")
    told = SPAWN.Queue()
    child = SPAWN.Process(target=_hold_for_ever, args=(s3_url, told))
    child.start()
    left = Path(told.get(timeout=60))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert left.exists()
    copy = CachedFile(folder, "other.npy")
    assert not left.exists()
    assert copy.path.read_bytes() == b"other"


def test_a_changed_file_is_another_copy(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.write("list.npy", b"one")
    first = CachedFile(folder, "list.npy")
    folder.write("list.npy", b"another")
    second = CachedFile(folder, "list.npy")
    assert (first.path.read_bytes(), second.path.read_bytes()) == (b"one", b"another")


def test_a_folder_of_them_has_the_names_of_the_bucket(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.write("0.1/list.npy", b"a")
    folder.write("0.2/more/list.npy", b"b")
    found = CachedFolder(folder)
    assert (found.path("0.1") / "list.npy").read_bytes() == b"a"
    assert (found.path("0.2") / "more/list.npy").read_bytes() == b"b"
