"""Bulk bytes by obstore from a real S3 server: the bytes, names, errors, credentials and limits of s3fs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datacomp_core.errors import DataError, MissingFileError, StoreError
from datacomp_core.store import Folder, failures

sys.path.insert(0, str(Path(__file__).parent))
from faulty_proxy import FaultyProxy, faulty_proxy

NAMES = ["a", "b/c.npy", "a=b", "a b", "x[1]*?", "p%20q", "ü/é", "q~1", "m:n", "..x", ".y", "#z", "a+b,c@d", "e//f"]


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(failures, "PAUSES", (0.05, 0.1))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with faulty_proxy(s3_server) as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        yield served


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_the_same_file_to_both_clients(s3_url: str, name: str) -> None:
    import s3fs

    own, other = s3fs.S3FileSystem(skip_instance_cache=True), Folder(s3_url)
    other.write(name, b"by folder")
    assert own.cat_file(f"{s3_url.removeprefix('s3://')}/{name}") == b"by folder"
    own.pipe_file(f"{s3_url.removeprefix('s3://')}/{name}", b"by s3fs")
    assert other.read(name) == b"by s3fs"
    assert other.read_ranges([(name, 0, 2), (name, 3, 7), (name, 1, 2)]) == [b"by", b"s3fs", b"y"]


def test_reads_and_small_writes_go_by_obstore_and_the_rest_by_s3fs(proxy: FaultyProxy, s3_url: str) -> None:
    folder, data = Folder(s3_url), os.urandom(300_000)
    for number in range(20):
        folder.write(f"{number}.bin", data[number:])
    proxy.agents.clear()
    assert [folder.read(f"{number}.bin") for number in range(20)] == [data[number:] for number in range(20)]
    ranges = [(f"{number % 20}.bin", 1000 * number, 1000 * number + 500) for number in range(200)]
    assert folder.read_ranges(ranges) == [data[number % 20 :][1000 * number :][:500] for number in range(200)]
    assert proxy.agents["s3fs"] == 0
    assert 20 < proxy.agents["obstore"] <= 220
    assert folder.create("once", b"1")
    assert not folder.create("once", b"2")
    assert proxy.agents["s3fs"] > 0


def test_what_is_missing_short_or_refused_is_told_as_before(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(s3_url)
    folder.write("there", b"12345")
    with pytest.raises(MissingFileError, match="there2 is not there"):
        folder.read("there2")
    with pytest.raises(MissingFileError):
        folder.read_ranges([("there", 0, 1), ("there2", 0, 1)])
    with pytest.raises(DataError, match="ends before byte 9"):
        folder.read_range("there", 3, 9)
    with pytest.raises(StoreError, match="bucket") as told:
        Folder("s3://no-such-bucket-at-all/x").read("there")
    assert not isinstance(told.value, MissingFileError)
    proxy.refused = "o"  # both clients
    for ask in (lambda: folder.read("there"), lambda: folder.read_range("there", 0, 2), lambda: folder.write("new", b"1")):
        with pytest.raises(StoreError, match="No permission"):
            ask()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:pa55word@127.0.0.1:1")
    with pytest.raises(StoreError) as told:
        Folder(s3_url).read("there")
    assert "object_store" not in str(told.value)


def test_a_bucket_that_only_s3fs_can_read_is_left_to_it(
    proxy: FaultyProxy, s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="datacomp_core.store.bulk")
    proxy.refused = "object_store"
    folder = Folder(s3_url)
    for number in range(6):
        folder.write(f"{number}", b"data")
        assert folder.read(f"{number}") == b"data"
    asked = proxy.agents["obstore"]
    assert [folder.read(f"{number}") for number in range(6)] == [b"data"] * 6
    assert proxy.agents["obstore"] == asked
    assert "is read only by s3fs" in caplog.text


def test_both_clients_sign_with_the_same_key_also_after_it_has_changed(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("first-key", "second-key"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        proxy.signers.clear()
        proxy.agents.clear()
        folder = Folder(s3_url)
        folder.write("x", b"1")
        folder.read("x")
        folder.files()
        assert set(proxy.signers) == {key}
        assert min(proxy.agents["obstore"], proxy.agents["s3fs"]) > 0


def _read(url: str, answers: multiprocessing.SimpleQueue[bytes]) -> None:
    answers.put(Folder(url).read("x"))


def test_a_forked_process_reads_too(s3_url: str) -> None:
    Folder(s3_url).write("x", b"data")
    assert Folder(s3_url).read("x") == b"data"
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_read, args=(s3_url, answers))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get() == b"data"
