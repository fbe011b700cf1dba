"""The vectorised renaming and the grouped reading against tarfile and the plain walk, over every form a header may have."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from reshard_world import expected, files_of, index, name_of, placeless, read_tars, sample_of, write_pool, write_subset

from datacomp_core.resharding.byte_ranges import in_order, joined
from datacomp_core.resharding.plan import ROW
from datacomp_core.resharding.reshard import ReshardSpec, ShardFolders, reshard_folders
from datacomp_core.resharding.tar_headers import frame_anew, names_of, rename
from datacomp_core.shards import index_tar, parse_sample
from datacomp_core.store import Folder


def archive(form: int, mtime: float) -> bytes:
    buffer = io.BytesIO()
    longer = 3 if form == tarfile.USTAR_FORMAT else 5  # beyond what a plain header holds
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(25):
            names = ["jpg", "json", "txt"][: 1 + number % 3] if number % 5 else ["JPG", "cls.TXT"]
            for name in names:
                content = random.Random(number).randbytes([0, 1, 511, 512, 513, 2000][number % 6])
                info = tarfile.TarInfo(f"{'deep/er/' if number % 4 == 0 else ''}{number:03d}{'x' * (number * longer)}.{name}")
                info.size, info.mtime = len(content), mtime
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "mtime"), [(tarfile.USTAR_FORMAT, 7), (tarfile.PAX_FORMAT, 7.5), (tarfile.GNU_FORMAT, 7)])
def test_renamed_samples_hold_what_they_held(form: int, mtime: float) -> None:
    """Of webdataset's tars (pax, a time of day) the bytes are those of framing anew; else only name and checksum change."""
    data = archive(form, mtime)
    rows = index_tar(io.BytesIO(data), "s").whole()
    keys = [f"{name_of(n)}-{n * 7}" for n in range(rows.height)]
    blocks = np.frombuffer(bytearray(data), np.uint8).reshape(-1, 512)
    begins, lengths = rows["offset"].to_numpy() // 512, rows["length"].to_numpy() // 512
    done = rename(blocks, begins, begins + lengths, names_of(keys))
    assert done.fits.sum() >= 15
    for n, (offset, length) in enumerate(rows.select("offset", "length").iter_rows()):
        old = data[offset : offset + length]
        if not done.fits[n]:
            assert bytes(blocks[begins[n] : begins[n] + lengths[n]].reshape(-1)) == old
            continue
        spans = [(m.head[m.sample == n], m.stop[m.sample == n]) for m in done.members]
        new = b"".join(bytes(blocks[h[0] : s[0]].reshape(-1)) for h, s in spans if len(h))
        assert done.stripped[n] == (form == tarfile.PAX_FORMAT)
        assert parse_sample(new) == parse_sample(old)
        with tarfile.open(fileobj=io.BytesIO(new)) as tar:
            assert {member.name.partition(".")[0] for member in tar} == {keys[n]}
        if done.stripped[n]:
            assert new == frame_anew(old, keys[n])[2]


@pytest.mark.parametrize(("form", "mtime"), [(tarfile.USTAR_FORMAT, 7), (tarfile.PAX_FORMAT, 7.5)])
def test_names_of_all_kinds_are_renamed_together_as_each_alone(form: int, mtime: float) -> None:
    data = archive(form, mtime)
    rows = index_tar(io.BytesIO(data), "s").whole()
    names = names_of([f"{name_of(n)}-{n * 7}" for n in range(rows.height)])
    begins, lengths = rows["offset"].to_numpy() // 512, rows["length"].to_numpy() // 512
    together, alone = (np.frombuffer(bytearray(data), np.uint8).reshape(-1, 512) for _ in range(2))
    fits = rename(together, begins, begins + lengths, names).fits
    for n in range(rows.height):
        one = slice(n, n + 1)
        assert rename(alone, begins[one], (begins + lengths)[one], names[one]).fits[0] == fits[n]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("seed", range(3))
def test_damage_and_mixed_samples_never_fit(seed: int) -> None:
    rng = random.Random(seed)
    for form, mtime in ((tarfile.USTAR_FORMAT, 7), (tarfile.PAX_FORMAT, 7.5)):
        data = archive(form, mtime)
        rows = index_tar(io.BytesIO(data), "s").whole()
        one, two = sorted(rng.sample(range(rows.height), 2))
        begin, end = rows["offset"][one], rows["offset"][two] + rows["length"][two]
        two_samples = np.frombuffer(bytearray(data[begin:end]), np.uint8).reshape(-1, 512)
        fits = rename(two_samples, np.zeros(1, np.int64), np.array([len(two_samples)]), names_of(["k"])).fits
        assert not fits.any()
        damaged = bytearray(data[begin : begin + rows["length"][one]])
        head = 2 if form == tarfile.PAX_FORMAT else 0
        damaged[head * 512 + rng.randrange(0, 156)] ^= 1
        blocks = np.frombuffer(damaged, np.uint8).reshape(-1, 512)
        assert not rename(blocks, np.zeros(1, np.int64), np.array([len(blocks)]), names_of(["k"])).fits.any()


def test_gaps_read_along_cost_no_more_than_allowed_and_save_what_they_can() -> None:
    rng = np.random.default_rng(0)
    rows = np.zeros(400, ROW)
    rows["shard"], rows["length"] = rng.integers(0, 3, 400), 512 * rng.integers(1, 30, 400)
    for shard in range(3):
        mine = np.flatnonzero(rows["shard"] == shard)
        gaps = 512 * rng.integers(0, 20, len(mine))
        rows["offset"][mine] = np.cumsum(gaps + rows["length"][mine]) - rows["length"][mine]
    ordered = rows[in_order(rows)]
    gap = ordered["offset"][1:] - ordered["offset"][:-1] - ordered["length"][:-1]
    same = ordered["shard"][1:] == ordered["shard"][:-1]
    requests: list[int] = []
    for overread in (0.0, 0.1, 0.5, 100.0):
        together = joined(ordered, remote=True, overread=overread, window=1 << 40)
        assert gap[together[1:]].sum() <= overread * rows["length"].sum()
        assert not together[1:][~same].any()
        left = gap[same & ~together[1:]]
        if len(left):
            assert gap[together[1:]].sum() + left.min() > overread * rows["length"].sum()
        requests.append(int((~together).sum()))
    assert requests == sorted(requests, reverse=True)
    assert requests[-1] == 3


def write_as_webdataset(pool: Path, samples: int, shards: int, mtime: float = 1_700_000_000.125) -> list[str]:
    """Tars as webdataset's writer leaves them: pax headers for the sake of a broken second."""
    pool.mkdir()
    for shard in range(shards):
        with tarfile.open(pool / f"{shard:08d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for number in range(shard * samples, (shard + 1) * samples):
                for extension, content in sample_of(number, name_of(number)).items():
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size, info.mtime, info.mode, info.uname = len(content), mtime, 0o444, "bigdata"
                    tar.addfile(info, io.BytesIO(content))
    return [name_of(number) for number in range(samples * shards)]


def test_downloads_of_other_days_give_the_same_bytes(tmp_path: Path) -> None:
    """img2dataset's writer puts the time into each member; it is not in what is made of them."""
    uids = write_as_webdataset(tmp_path / "a", 30, 2)
    write_as_webdataset(tmp_path / "b", 30, 2, 1_800_000_000.5)
    assert (tmp_path / "a/00000000.tar").read_bytes() != (tmp_path / "b/00000000.tar").read_bytes()
    chosen = uids[::2] + uids[:8] * 3
    subset = write_subset(tmp_path / "s.npy", chosen)
    for name in "ab":
        reshard_folders(Folder(tmp_path / name), subset, Folder(tmp_path / f"out-{name}"), ReshardSpec(samples_per_shard=20))
    assert read_tars(tmp_path / "out-a") == expected(tmp_path / "a", chosen)
    assert placeless(files_of(tmp_path / "out-a")) == placeless(files_of(tmp_path / "out-b"))


def test_several_inputs_of_different_forms(tmp_path: Path) -> None:
    """A plain pool and a download that share some uids: each is taken from the first that has it."""
    first = write_pool(tmp_path / "pool", shards=2, samples=20, dead=4)
    second = write_as_webdataset(tmp_path / "more", 25, 2)
    chosen = first + second + second[:3]
    inputs = ShardFolders((Folder(tmp_path / "pool"), Folder(tmp_path / "more")))
    subset = write_subset(tmp_path / "s.npy", chosen)
    account = reshard_folders(inputs, subset, Folder(tmp_path / "out"), ReshardSpec(samples_per_shard=25))
    wanted = {**expected(tmp_path / "more", chosen), **expected(tmp_path / "pool", chosen)}
    assert read_tars(tmp_path / "out") == wanted
    assert account.written == len(wanted)
    assert account.missing == {}


def test_parts_of_a_pool_together_are_the_pool(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", shards=5, samples=12, dead=2)
    subset = write_subset(tmp_path / "s.npy", uids)
    found: dict[str, dict[str, bytes]] = {}
    for first, number in ((0, 2), (2, 2), (4, None)):
        out = tmp_path / f"out{first}"
        account = reshard_folders(ShardFolders((Folder(tmp_path / "pool"),), first, number), subset, Folder(out), ReshardSpec())
        shards = len(range(first, min(5, first + (number or 5))))
        assert account.missing == {"never_downloaded": 2 * shards, "not_in_part": 12 * (5 - shards)}
        found |= read_tars(out)
    assert found == expected(tmp_path / "pool", uids)


def test_two_at_once_leave_one_whole_result(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids)
    spec = ReshardSpec(samples_per_shard=5)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "alone"), spec)
    out = tmp_path / "both"
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(reshard_folders, Folder(tmp_path / "pool"), subset, Folder(out), spec) for _ in range(2)]:
            done.result()
    assert files_of(out) == files_of(tmp_path / "alone")


@pytest.mark.s3
def test_a_group_of_shards_asks_a_bucket_less_often(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = write_pool(tmp_path / "pool", shards=2, samples=60, dead=0)
    remote = Folder(s3_url)
    for name, data in files_of(tmp_path / "pool").items():
        remote.write(f"pool/{name}", data)
    subset = write_subset(tmp_path / "s.npy", uids)
    asked: list[int] = []
    whole = Folder.read_ranges
    monkeypatch.setattr(Folder, "read_ranges", lambda self, ranges: asked.append(len(ranges)) or whole(self, ranges))
    requests: list[int] = []
    for group in (0, 1 << 30):
        asked.clear()
        out = Folder(tmp_path / f"out{group}")
        reshard_folders(remote / "pool", subset, out, ReshardSpec(samples_per_shard=12), group_bytes=group)
        requests.append(sum(asked))
    assert files_of(tmp_path / "out0") == files_of(tmp_path / f"out{1 << 30}")
    assert requests[1] == 3  # one a tar, and the first sample, by which the lengths of all are foreseen
    assert requests[0] > 50
    assert json.loads((tmp_path / "out0/accounting.json").read_text())["written"] == 120


def test_an_index_is_that_of_a_walk_for_downloads(tmp_path: Path) -> None:
    uids = write_as_webdataset(tmp_path / "pool", 20, 1)
    subset = write_subset(tmp_path / "s.npy", uids)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), ReshardSpec())
    before = (tmp_path / "out/index/00000000.parquet").read_bytes()
    index(tmp_path / "out")
    assert (tmp_path / "out/index/00000000.parquet").read_bytes() == before
