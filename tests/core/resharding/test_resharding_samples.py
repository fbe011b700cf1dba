"""What comes out: the chosen samples, each as often as chosen, whole and unchanged; told by readers of others."""

from __future__ import annotations

import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reshard_world import expected, files_of, index, name_of, placeless, read_tars, sample_of, write_pool, write_subset, write_tar

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.shards import index_shard, read_index
from datacomp_core.store import Folder


def test_multiset_comes_out_as_often_as_chosen(tmp_path: Path) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    uids = write_pool(pool)
    rng = random.Random(0)
    chosen = rng.sample(uids, 40) + rng.sample(uids, 10) * 3
    account = reshard_folders(
        Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(out), ReshardSpec(samples_per_shard=7)
    )
    wanted = expected(pool, chosen)
    assert read_tars(out) == wanted
    assert account.subset == len(chosen)
    assert account.unique == len(set(chosen))
    assert account.written == len(wanted)
    assert account.written_unique == len({key.split("-")[0] for key in wanted})
    assert account.written + sum(account.missing.values()) == account.subset
    assert (out / "sample_ids.npy").read_bytes() == (tmp_path / "s.npy").read_bytes()


def test_shards_are_equal_to_within_one_named_and_counted_as_the_reference_does(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", dead=0)
    subset = write_subset(tmp_path / "s.npy", uids[:97])
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), ReshardSpec(samples_per_shard=10))
    sizes = []
    for number in range(10):
        path = tmp_path / f"out/{number:08d}.tar"
        with tarfile.open(path) as archive:
            sizes.append(len({member.name.split(".")[0] for member in archive}))
        assert json.loads((tmp_path / f"out/{number:08d}_stats.json").read_text()) == {"successes": sizes[-1]}
    assert not (tmp_path / "out/00000010.tar").exists()
    assert sum(sizes) == 97
    assert set(sizes) == {9, 10}


def test_index_beside_the_output_is_that_of_a_walk(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids + uids[:5])
    out = Folder(tmp_path / "out")
    reshard_folders(Folder(tmp_path / "pool"), subset, out, ReshardSpec(samples_per_shard=30))
    for number in range(3):
        assert read_index(out, f"{number:08d}").equals(index_shard(out, f"{number:08d}").whole())


def test_same_bytes_whatever_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.resharding import plan_inputs, reshard

    monkeypatch.setattr(plan_inputs, "INDICES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(reshard, "SAMPLES_WORTH_A_PROCESS", 1)
    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids + uids[::3])
    spec = ReshardSpec(samples_per_shard=9)
    for workers in (1, 2):
        reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / f"out{workers}"), spec, workers=workers)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_same_bytes_on_a_cluster(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core import engines
    from datacomp_core.resharding import plan_inputs, reshard

    monkeypatch.setattr(plan_inputs, "INDICES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(reshard, "SAMPLES_WORTH_A_PROCESS", 1)
    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids + uids[::3])
    spec = ReshardSpec(samples_per_shard=9)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "here"), spec)
    with engines.using(engine):
        reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "there"), spec, workers=2)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")


def order_of(folder: Path) -> list[str]:
    return list(read_tars(folder))


def test_shuffle_is_global_by_seed_and_independent_of_the_pools_sharding(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", shards=10, samples=40, dead=0)
    write_pool(tmp_path / "other", shards=4, samples=100, dead=0)
    subset = write_subset(tmp_path / "s.npy", uids)
    for name, seed in (("pool", 0), ("pool", 1), ("other", 0)):
        out = Folder(tmp_path / f"{name}{seed}")
        reshard_folders(Folder(tmp_path / name), subset, out, ReshardSpec(samples_per_shard=50, seed=seed))
    first = order_of(tmp_path / "pool0")
    assert first == order_of(tmp_path / "other0")
    assert first != order_of(tmp_path / "pool1")
    assert sorted(first) == sorted(order_of(tmp_path / "pool1"))
    shard_of = {f"{u}-0": i // 40 for i, u in enumerate(uids)}
    for begin in range(0, 400, 50):  # 50 draws of 10 shards: all of fewer than 5 has a chance below 1e-13
        assert len({shard_of[key] for key in first[begin : begin + 50]}) >= 5
    places = np.array([uids.index(key.split("-")[0]) for key in first])
    assert abs(np.corrcoef(places, np.arange(400))[0, 1]) < 0.2


def test_without_shuffle_the_order_is_that_of_the_input(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", dead=0)
    subset = write_subset(tmp_path / "s.npy", [*uids[::-2], uids[-1]])
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), ReshardSpec(shuffle="none"))
    assert order_of(tmp_path / "out") == [*(f"{u}-0" for u in uids[1::2]), f"{uids[-1]}-1"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_headers_long_names_and_other_things_between(tmp_path: Path, form: int) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    samples = [(name_of(i), sample_of(i, name_of(i))) for i in range(12)]
    keys = [f"folder/{'k' * 120}{i}" if i % 3 == 0 else f"{i:06d}" for i in range(12)]
    write_tar(pool / "00000000.tar", [(key, members) for key, (_, members) in zip(keys, samples, strict=True)], form)
    with tarfile.open(pool / "00000001.tar", "w", format=form) as archive:
        for extension in ("JPG", "json"):
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            content = json.dumps({"uid": name_of(77)}).encode()
            info = tarfile.TarInfo(f"a.{extension}")
            info.size = len(content)
            import io

            archive.addfile(info, io.BytesIO(content))
    chosen = [u for u, _ in samples] + [name_of(3), name_of(77)]
    reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(tmp_path / "out"), ReshardSpec())
    by_uid = {**dict(samples), name_of(77): dict.fromkeys(("jpg", "json"), json.dumps({"uid": name_of(77)}).encode())}
    wanted = {f"{u}-{copy}": by_uid[u] for u, times in Counter(chosen).items() for copy in range(times)}
    assert read_tars(tmp_path / "out") == wanted


def test_a_uid_that_lies_in_several_shards_is_taken_from_the_first(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    same = {"uid": name_of(1)}
    for shard, content in enumerate((b"first", b"second")):
        members = {"jpg": content, "json": json.dumps(same).encode()}
        write_tar(pool / f"{shard:08d}.tar", [("a", members), ("b", {**members, "jpg": b"again"})])
    subset = write_subset(tmp_path / "s.npy", [name_of(1)] * 2)
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec())
    assert {key: sample["jpg"] for key, sample in read_tars(tmp_path / "out").items()} == {
        f"{name_of(1)}-0": b"first",
        f"{name_of(1)}-1": b"first",
    }
    assert account.found_again == 1


def test_samples_that_share_a_key_are_told_apart_by_their_uids(tmp_path: Path) -> None:
    pool, uids = tmp_path / "pool", [name_of(n) for n in range(6)]
    pool.mkdir()
    write_tar(pool / "00000000.tar", [("same" if n < 4 else f"{n}", sample_of(n, u)) for n, u in enumerate(uids)])
    write_tar(pool / "00000001.tar", [("same", sample_of(7, name_of(7)))])
    chosen = [uids[1], uids[2], uids[2], uids[5], name_of(7)]
    reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(tmp_path / "out"), ReshardSpec())
    number = {u: n for n, u in enumerate(uids)} | {name_of(7): 7}
    wanted = {f"{u}-{copy}": sample_of(number[u], u) for u, times in Counter(chosen).items() for copy in range(times)}
    assert read_tars(tmp_path / "out") == wanted


def test_little_more_is_read_than_was_chosen(tmp_path: Path) -> None:
    """By the kernel's count: a tenth more than the chosen ranges at most; the rest is indices and the subset."""
    pool = tmp_path / "pool"
    pool.mkdir()
    uids = [name_of(n) for n in range(400)]
    for shard in range(2):
        mine = range(200 * shard, 200 * shard + 200)
        write_tar(pool / f"{shard:08d}.tar", [(f"{n:09d}", sample_of(n, uids[n]) | {"jpg": bytes(20_000)}) for n in mine])
    index(pool)

    def counted(out: str, chosen: list[str]) -> int:
        subset = write_subset(tmp_path / "s.npy", chosen)
        before = int(Path("/proc/self/io").read_text().split()[1])
        reshard_folders(Folder(pool), subset, Folder(tmp_path / out), ReshardSpec(shuffle="none"))
        return int(Path("/proc/self/io").read_text().split()[1]) - before

    rng = random.Random(0)
    counted("warm", uids[:1])  # modules are read too
    least = counted("one", uids[:1])
    for share in (0.05, 0.3, 1.0):
        chosen = rng.sample(uids, int(share * len(uids)))
        read = counted(f"{share}", chosen) - least
        selected = int(read_index(Folder(tmp_path / f"{share}"), "00000000")["length"].to_numpy().sum())
        assert read < 1.1 * selected + 200 * len(chosen), (share, read, selected)  # plan and records: some bytes a sample


def test_uids_that_share_their_first_half_are_told_apart(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    uids = ["f" * 16 + f"{low:016x}" for low in (0, 1, 2**63, 2**64 - 1)] + ["0" * 32]
    write_tar(pool / "00000000.tar", [(f"{i}", sample_of(i, u)) for i, u in enumerate(uids)])
    chosen = [uids[1], uids[3], uids[3], uids[4]]
    reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(tmp_path / "out"), ReshardSpec())
    assert read_tars(tmp_path / "out") == expected(pool, chosen)
    assert len(read_tars(tmp_path / "out")) == 4


def test_many_buckets_give_the_order_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.resharding import plan

    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids + uids[::4])
    for shuffle in ("global", "none"):
        for rows in (4_000_000, 7):
            monkeypatch.setattr(plan, "BUCKET_ROWS", rows)
            spec = ReshardSpec.model_validate({"samples_per_shard": 10, "shuffle": shuffle})
            reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / f"{shuffle}{rows}"), spec)
        assert files_of(tmp_path / f"{shuffle}4000000") == files_of(tmp_path / f"{shuffle}7")


def test_locate_against_brute_force() -> None:
    from datacomp_core.resharding.plan import locate

    rng = np.random.default_rng(0)
    subset = np.zeros(500, uid.DTYPE)
    subset["f0"], subset["f1"] = rng.integers(0, 12, 500), rng.integers(0, 6, 500)
    subset = uid.sort(subset)
    wanted = np.zeros(14 * 8, uid.DTYPE)
    wanted["f0"], wanted["f1"] = np.repeat(np.arange(14), 8), np.tile(np.arange(8), 14)
    first, count = locate(subset, wanted)
    everything = subset.tolist()
    assert count.tolist() == [everything.count(one) for one in wanted.tolist()]
    assert [everything.index(one) for one in wanted.tolist() if one in everything] == first[count > 0].tolist()


@pytest.mark.slow
def test_open_clips_own_loader_reads_each_sample_as_often_as_it_should(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from open_clip_train.data import get_wds_dataset
    from PIL import Image

    pool = tmp_path / "pool"
    pool.mkdir()
    picture = tmp_path / "p.jpg"
    Image.new("RGB", (8, 8), "red").save(picture)
    image = picture.read_bytes()
    samples = [
        (f"{i:04d}", {"jpg": image, "json": json.dumps({"uid": name_of(i)}).encode(), "txt": f"{i}".encode()}) for i in range(12)
    ]
    write_tar(pool / "00000000.tar", samples)
    chosen = [name_of(i) for i in range(12)] + [name_of(5)] * 2 + [name_of(6)] * 2
    reshard_folders(
        Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(tmp_path / "out"), ReshardSpec(samples_per_shard=4)
    )
    arguments = SimpleNamespace(
        train_data=str(tmp_path / "out/{00000000..00000003}.tar"),
        train_data_upsampling_factors=None,
        train_num_samples=16,
        dataset_resampled=False,
        seed=0,
        batch_size=4,
        workers=1,
        world_size=1,
    )
    info = get_wds_dataset(arguments, lambda image: np.asarray(image).mean(), True, tokenizer=lambda texts: [int(texts)])
    seen = Counter(int(number) for _, texts in info.dataloader for number in texts)
    assert seen == {**dict.fromkeys(range(12), 1), 5: 3, 6: 3}


@pytest.mark.s3
def test_bucket_to_bucket_and_folder_to_bucket_give_the_same_bytes(tmp_path: Path, s3_url: str) -> None:
    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids[::2] + uids[:4])
    remote = Folder(s3_url)
    for name, data in files_of(tmp_path / "pool").items():
        remote.write(f"pool/{name}", data)
    remote.write("s.npy", Path(subset).read_bytes())
    spec = ReshardSpec(samples_per_shard=9)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), spec)
    reshard_folders(remote / "pool", f"{s3_url}/s.npy", remote / "out", spec)
    reshard_folders(Folder(tmp_path / "pool"), subset, remote / "mixed", spec)
    reshard_folders(remote / "pool", subset, Folder(tmp_path / "down"), spec)
    ours = placeless(files_of(tmp_path / "out"))
    assert placeless(files_of(tmp_path / "down")) == ours
    for place in ("out", "mixed"):
        assert placeless({name: (remote / place).read(name) for name in (remote / place).files()}) == ours


def test_a_subset_file_that_is_none(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool")
    for name, content, words in (("a", b"x", "not a subset file"), ("b", None, "is not there")):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            reshard_folders(Folder(tmp_path / "pool"), str(tmp_path / name), Folder(tmp_path / "out"), ReshardSpec())
    backwards = uid.pack(pl.Series([name_of(2), name_of(1)]))[::-1]
    np.save(tmp_path / "c.npy", np.sort(backwards)[::-1])
    with pytest.raises(DataError, match="not sorted"):
        reshard_folders(Folder(tmp_path / "pool"), str(tmp_path / "c.npy"), Folder(tmp_path / "out"), ReshardSpec())
    assert not list((tmp_path / "out").glob("*.tar"))
