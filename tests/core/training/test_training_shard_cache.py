"""Checkpoints carried to a bucket, shards copied from one: a real S3 server, damaged copies, two machines."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from datacomp_core.errors import DataError
from datacomp_core.store import Folder
from datacomp_core.training.job import HISTORY, LATEST, PREVIOUS
from datacomp_core.training.resume import CHECKPOINTS, POINTER, CheckpointUploader, fetch, newest_valid, position
from datacomp_core.training.shard_cache import ShardCache

pytestmark = pytest.mark.s3


@pytest.fixture
def out(s3_url: str) -> Folder:
    return Folder(s3_url) / "attempt"


def machine(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    (folder / CHECKPOINTS).mkdir(parents=True)
    return folder


def saved(folder: Path, epoch: int, steps: int) -> None:
    target = folder / CHECKPOINTS / LATEST
    torch.save({"epoch": epoch, "steps": steps, "state_dict": {"w": torch.full((100,), float(epoch))}}, target.with_name("tmp"))
    target.with_name("tmp").replace(target)
    with (folder / HISTORY).open("a") as file:
        file.write(f'{{"step": {epoch * 10 + steps}, "loss": 1.0}}\n')


def test_another_machine_goes_on_from_the_newest_whole_copy(tmp_path: Path, out: Folder) -> None:
    here = machine(tmp_path, "here")
    uploader = CheckpointUploader(here, out)
    for at in ((0, 4), (1, 0), (1, 7)):
        saved(here, *at)
        uploader.carry()
    remote = out / "resume"
    names = [copy["name"] for copy in remote.read_json(POINTER)["copies"]]
    assert names == ["0001-00000007", "0001-00000000"]
    assert {path.split("/")[0] for path in remote.files()} == {*names, POINTER}, "the oldest copy is gone"

    there = machine(tmp_path, "there")
    fetch(remote, there)
    assert position(there / CHECKPOINTS / LATEST) == (1, 7)
    assert len((there / HISTORY).read_text().splitlines()) == 3

    remote.write(f"{names[0]}/{LATEST}", b"damaged")
    third = machine(tmp_path, "third")
    fetch(remote, third)
    assert position(third / CHECKPOINTS / LATEST) == (1, 0)

    fetch(remote, there)
    assert position(there / CHECKPOINTS / LATEST) == (1, 7), "what lies here is further"


def test_the_carrier_works_in_the_background_and_ends_with_its_block(tmp_path: Path, out: Folder) -> None:
    here = machine(tmp_path, "here")
    with CheckpointUploader(here, out) as uploader:
        saved(here, 2, 3)
        for _ in range(300):
            if uploader.copies:
                break
            threading.Event().wait(0.1)
    assert [copy["position"] for copy in uploader.copies] == [(2, 3)]
    assert not uploader.problem
    assert not any(thread.name == "carrier" for thread in threading.enumerate())


def test_a_shard_is_copied_once_by_all_readers_of_a_machine(tmp_path: Path, out: Folder) -> None:
    data = bytes(range(256)) * 4000
    out.write("00000000.tar", data)
    many = [ShardCache(str(tmp_path / "cache")) for _ in range(4)]
    for copies in many:
        copies.fetch(out.url, "00000000")
    held = [copies.open(out.url, "00000000") for copies in many]
    assert len({os.fstat(handle).st_ino for handle in held}) == 1
    many[0].drop(out.url, "00000000")
    assert [os.pread(handle, len(data) + 1, 0) for handle in held] == [data] * 4
    for handle in held:
        os.close(handle)
    assert not list((tmp_path / "cache").rglob("*.tar"))
    out.write("00000002.tar", data)
    many[0].fetch(out.url, "00000002")
    many[0]._coming[out.url, "00000002"].result()  # pyright: ignore[reportPrivateUsage]
    many[2].drop(out.url, "00000002")  # another one has read it, and drops it before the first opens what it fetched
    late = [copies.open(out.url, "00000002") for copies in many[:2]]
    assert [os.pread(handle, len(data) + 1, 0) for handle in late] == [data] * 2
    for handle in late:
        os.close(handle)
    many[1].fetch(out.url, "00000001")
    with pytest.raises(DataError, match=r"00000001\.tar is not there"):
        many[1].open(out.url, "00000001")
    shutil.rmtree(tmp_path / "cache")


def test_a_checkpoint_with_a_hole_is_no_checkpoint(tmp_path: Path) -> None:
    latest, previous = tmp_path / LATEST, tmp_path / PREVIOUS
    for path, epoch in ((previous, 1), (latest, 2)):
        torch.save({"epoch": epoch, "state_dict": {"weight": torch.randn(100_000)}}, path)
    whole = previous.read_bytes()
    with latest.open("r+b") as file:  # as a machine's crash leaves blocks that never reached the disk
        file.seek(100_000)
        file.write(bytes(100_000))
    assert torch.load(latest, weights_only=True)["epoch"] == 2, "torch itself does not mind"
    newest_valid(latest)
    assert latest.read_bytes() == whole
