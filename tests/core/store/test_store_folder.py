"""The door to files: the same behaviour on a disk and on a real S3 server."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import threading
from pathlib import Path

import pytest
from conftest import BUCKET
from s3_servers import ministack

from datacomp_core.errors import DataError, DiskFullError, StoreError
from datacomp_core.store import Folder, Store
from datacomp_core.store.bucket import BucketFiles
from datacomp_core.store.failures import as_store_errors
from datacomp_core.store.folder import PART_BYTES
from datacomp_core.store.local import LocalFiles


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "root" if request.param == "local" else request.getfixturevalue("s3_url"))


def test_what_is_written_is_read_back(folder: Folder) -> None:
    stat = folder.write("a/b.bin", b"0123456789")
    assert folder.read("a/b.bin") == b"0123456789"
    assert folder.read_range("a/b.bin", 2, 5) == b"234"
    assert (stat.size, stat.sha256) == (10, hashlib.sha256(b"0123456789").hexdigest())
    assert folder.files() == {"a/b.bin": 10}
    assert (folder / "a").files() == {"b.bin": 10}
    assert folder.folders() == ["a"]
    with folder.open("a/b.bin") as file:
        assert file.read(3) == b"012"


def test_a_range_past_the_end_is_an_error_that_says_truncated(folder: Folder) -> None:
    folder.write("x", b"abc")
    with pytest.raises(DataError, match="truncated"):
        folder.read_range("x", 1, 9)


def test_what_is_missing_is_named(folder: Folder) -> None:
    with pytest.raises(DataError, match="nothing.bin is not there"):
        folder.read("nothing.bin")
    assert folder.files() == {}
    assert not folder.exists("nothing.bin")
    folder.remove("nothing.bin")


def test_create_refuses_a_second_time_and_keeps_the_first(folder: Folder) -> None:
    assert folder.create("r.json", b"one")
    assert not folder.create("r.json", b"two")
    assert folder.read("r.json") == b"one"


def test_of_many_creators_at_once_exactly_one_wins(folder: Folder) -> None:
    folder.write("warm", b"")
    won: list[int] = []
    start = threading.Barrier(8)

    def race(i: int) -> None:
        start.wait()
        if Folder(folder.url).create("race", str(i).encode()):
            won.append(i)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("race") == str(won[0]).encode()


def test_writing_shows_nothing_until_it_is_whole(folder: Folder) -> None:
    with pytest.raises(ZeroDivisionError), folder.writing("big.bin") as path:
        path.write_bytes(b"half")
        assert folder.files() == {}
        raise ZeroDivisionError
    assert folder.files() == {}
    with folder.writing("big.bin") as path:
        path.write_bytes(b"whole")
    assert folder.read("big.bin") == b"whole"


def test_put_moves_a_local_file_in(folder: Folder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    stat = folder.put("deep/er/file", source)
    assert folder.read("deep/er/file") == b"data"
    assert stat.sha256 == hashlib.sha256(b"data").hexdigest()
    assert not source.exists()


def test_a_large_file_goes_in_parts_and_comes_back_as_it_was(folder: Folder, tmp_path: Path) -> None:
    source, data = tmp_path / "source", os.urandom(2 * PART_BYTES + 12_345)
    source.write_bytes(data)
    assert folder.put("large", source).size == len(data)
    assert folder.read("large") == data
    assert folder.files() == {"large": len(data)}


def test_remove_takes_a_file_or_the_whole_folder(folder: Folder) -> None:
    folder.write("a/1", b"1")
    folder.write("a/2", b"2")
    folder.remove("a/1")
    assert folder.files() == {"a/2": 1}
    (folder / "a").remove()
    assert folder.files() == {}


def test_a_journal_knows_what_subfolders_wrote_and_other_processes_noted(folder: Folder) -> None:
    out = folder.journaled()
    (out / "sub").write("x", b"abc")
    from_worker = pickle.loads(pickle.dumps(out / "sub")).write("y", b"de")
    assert set(out.journal) == {"sub/x"}
    (out / "sub").note(from_worker)
    assert set(out.journal) == {"sub/x", "sub/y"}
    assert folder.journal == {}


def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match=r"Cannot use .*file"):
        Folder(blocked).write("x", b"")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="disk is full"), as_store_errors("x"), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x" * 4096)


def test_a_store_on_a_full_disk_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(str(tmp_path)).root.write("there", b"kept")

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFiles, "create", full)
    assert Store.open(str(tmp_path)).root.read("there") == b"kept"


@pytest.mark.s3
def test_a_changed_environment_leads_to_the_other_server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec keeps its clients, and a client keeps the endpoint that it began with."""
    Folder(s3_url).write("which", b"first")
    in_use = Folder(s3_url)
    assert in_use.read("which") == b"first"
    with ministack() as environment, monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(StoreError, match="bucket does not exist"):
            Folder(s3_url).write("which", b"second")
        BucketFiles(s3_url).fs.mkdir(BUCKET)
        Folder(s3_url).write("which", b"second")
        assert Folder(s3_url).read("which") == b"second"
        assert pickle.loads(pickle.dumps(in_use)).read("which") == b"second"
        assert in_use.read("which") == b"first"
    assert Folder(s3_url).read("which") == b"first"
