"""Marks of files: a file that was changed in place has another one, whatever its size and time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datacomp_core.errors import SpecError
from datacomp_core.store import Folder
from datacomp_core.store import content_marks as contents
from datacomp_core.store.content_marks import describe_changes, digest, marks, marks_as_json, read_marks
from datacomp_core.store.folder_request import bind_folder


def keep_time(path: Path, data: bytes) -> None:
    """Overwrite a file and give it back its time."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"1" * 100)
    (tmp_path / "deep/b.bin").write_bytes(b"2" * 100)
    return tmp_path


def test_equal_size_and_time_do_not_hide_other_bytes(folder: Path) -> None:
    before = marks(Folder(folder))
    keep_time(folder / "deep/b.bin", b"3" * 100)
    now = marks(Folder(folder), known=before)
    assert [mark.size for mark in now.values()] == [mark.size for mark in before.values()]
    assert [mark.time for mark in now.values()] == [mark.time for mark in before.values()]
    assert digest(now) != digest(before)
    assert describe_changes(before, now) == "deep/b.bin has changed"
    assert digest(marks(Folder(folder), known=before, trust="times")) == digest(before), "asked not to read"
    os.utime(folder / "deep/b.bin", ns=(1, 1))
    assert digest(marks(Folder(folder), known=before, trust="times")) == digest(now), "another time: read after all"


def test_a_touched_small_file_is_the_same_and_a_large_one_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = marks(Folder(folder))
    os.utime(folder / "a.bin", ns=(1, 1))
    assert digest(marks(Folder(folder))) == digest(before)
    monkeypatch.setattr(contents, "BLOCK_BYTES", 4)
    sampled = marks(Folder(folder), whole_bytes=10)
    assert digest(marks(Folder(folder), whole_bytes=10)) == digest(sampled)
    keep_time(folder / "a.bin", b"1" * 99 + b"9")
    assert describe_changes(sampled, marks(Folder(folder), whole_bytes=10)) == "a.bin has changed"
    os.utime(folder / "deep/b.bin", ns=(1, 1))
    assert "deep/b.bin" in describe_changes(sampled, marks(Folder(folder), whole_bytes=10)), "the time of a large file counts"


def test_an_object_in_a_bucket_is_known_by_its_etag(s3_url: str) -> None:
    folder = Folder(f"{s3_url}/marks")
    folder.write("a.bin", b"1" * 100)
    before = marks(folder)
    assert before["a.bin"].content.startswith("etag:")
    folder.write("a.bin", b"2" * 100)
    assert describe_changes(before, marks(folder)) == "a.bin has changed"


def test_files_that_come_and_go_are_named_and_marks_survive_json(folder: Path) -> None:
    before = marks(Folder(folder))
    (folder / "a.bin").unlink()
    (folder / "c.bin").write_bytes(b"")
    assert describe_changes(before, marks(Folder(folder))) == "a.bin is gone, c.bin is new"
    assert read_marks(marks_as_json(before)) == before
    assert read_marks({"a": 1}) == {}


def test_a_claim_names_the_file_that_has_changed(folder: Path, tmp_path: Path) -> None:
    out = Folder(tmp_path / "out")

    def again(**request: int) -> None:
        bind_folder(out, request, {"pictures": lambda known: marks(Folder(folder / "deep"), known=known)})

    again(seed=0)
    again(seed=0)
    keep_time(folder / "deep/b.bin", b"3" * 100)
    with pytest.raises(SpecError, match=r"started with another pictures \(b\.bin has changed\)"):
        again(seed=0)
    with pytest.raises(SpecError, match=r"another seed, pictures"):
        again(seed=1)
