"""Tars that are damaged, or changed after they were indexed, through every command that reads shards of a plain folder.

No command ends with status 0 and a wrong or lost sample: it names the tar, or it writes exactly what the tar contains.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from odd_tars import DAMAGED, pack, sample, samples, second_start, uid_of, zeroed
from test_cli_stale import Command, datacomp, made, world  # noqa: F401  # fixtures

from datacomp_core import uid
from datacomp_core.parts import SCHEMA
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.store import Store

NUM = 4
NAME = "00000000.tar"
GOOD = pack(samples(range(NUM)))


def pool(world: Path) -> Path:  # noqa: F811
    """metadata/, a subset of all, and a recipe that reads pictures."""
    home = world / "odd"
    (home / "metadata").mkdir(parents=True)
    uids = [uid_of(number) for number in range(NUM)]
    table = pl.DataFrame({"uid": uids, "text": [f"thing {number:03d}" for number in range(NUM)]})
    rest = [pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in table.columns]
    table.with_columns(rest).select(SCHEMA.names()).write_parquet(home / "metadata/00000000.parquet")
    (home / "subset.npy").write_bytes(uid.subset_bytes(uid.pack(pl.Series(uids))))
    (home / "pictures.yaml").write_text("filter: {kind: top_fraction, score: perceptual_hash, fraction: 0.9}")
    (home / "shards").mkdir()
    return home


def indexed(home: Path, data: bytes) -> None:
    (home / "shards" / NAME).write_bytes(data)
    store, spec = Store.open(str(home / "store")), AdoptedPoolSpec(source=str(home / "shards"))
    adopt_shards(spec, adopt_metadata(spec, store=store), store=store)


def call(command: str, home: Path, world: Path) -> list[object]:  # noqa: F811
    shards, metadata, out = home / "shards", home / "metadata", home / command
    return {
        "reshard": ["reshard", "--shards", shards, "--subset", home / "subset.npy", "--out", out],
        "train": ["train", "--scale", "tiny", "--data", shards, "--out", out],
        "embed": ["embed", "--metadata", metadata, "--shards", shards, "--out", out, "--encoder", f"mine={world}/model"],
        "filter": [
            *("filter", "--metadata", metadata, "--shards", shards, "--recipe", home / "pictures.yaml"),
            *("--out", home / "chosen.npy"),
        ],
    }[command]


def later(home: Path, data: bytes | None) -> None:
    """Another tar instead of the one that was indexed, of another time."""
    path = home / "shards" / NAME
    before = path.stat()
    if data is None:
        path.unlink()
        return
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


CHANGES: dict[str, Callable[[], bytes | None]] = {
    "another order, equal size": lambda: pack([member for number in reversed(range(NUM)) for member in sample(number)]),
    "zeros inside": lambda: zeroed(GOOD, second_start(GOOD), second_start(GOOD) + 1024),
    "cut off": lambda: GOOD[:9000],
    "gone": lambda: None,
}


@pytest.mark.parametrize("command", ["reshard", "embed", "filter", pytest.param("train", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=() if "order" in name else pytest.mark.slow, id=name) for name in CHANGES]
)
def test_a_tar_that_changed_after_it_was_indexed_is_named(datacomp: Command, world: Path, change: str, command: str) -> None:  # noqa: F811
    home = pool(world)
    indexed(home, GOOD)
    later(home, CHANGES[change]())
    status, _, problem = datacomp(*call(command, home, world))
    told = problem.replace("\n", " ")
    assert status in (1, 2), told
    assert NAME.removesuffix(".tar") in told or (change == "gone" and f"{home}/shards has no shards" in told)
    assert "Traceback" not in problem
    assert not (home / "chosen.npy").exists()
    assert not list(home.glob("reshard/*.tar"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reshard", "train"])
@pytest.mark.parametrize(
    "fault", ["all pictures, then all json, then all captions", "a zero block inside", "gzip", "no end mark"]
)
def test_a_damaged_tar_that_was_never_indexed_is_named(datacomp: Command, world: Path, fault: str, command: str) -> None:  # noqa: F811
    home = pool(world)
    (home / "shards" / NAME).write_bytes(DAMAGED[fault][0]())
    status, _, problem = datacomp(*call(command, home, world))
    told = problem.replace("\n", " ")
    assert status in (1, 2), told
    assert NAME.removesuffix(".tar") in told
    assert "byte" in told
    assert "Traceback" not in problem
    assert not list(home.glob("reshard/*.tar"))


def test_what_is_written_of_a_good_tar_is_what_it_contains(datacomp: Command, world: Path) -> None:  # noqa: F811
    home = pool(world)
    indexed(home, GOOD)
    status, _, problem = datacomp(*call("reshard", home, world))
    assert status == 0, problem
    found: dict[str, bytes] = {}
    for path in sorted(home.glob("reshard/*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                data = archive.extractfile(info)
                assert data is not None
                found[info.name] = data.read()
    pictures = {data for name, data in found.items() if name.endswith(".jpg")}
    assert pictures == {data for name, data in samples(range(NUM)) if name.endswith(".jpg")}


FAULTY_SETS: dict[str, Callable[[bytes], bytes]] = {
    "a zero block inside": lambda data: zeroed(data, second_member(data), second_member(data) + 512),
    "cut off": lambda data: data[: len(data) // 2 // 512 * 512],
    "two archives as one": lambda data: data + data,
    "gzip": lambda _: DAMAGED["gzip"][0](),
}


def second_member(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.next()
        second = archive.next()
        assert second is not None
        return second.offset


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow if n else (), id=name) for n, name in enumerate(FAULTY_SETS)]
)
def test_a_damaged_test_set_ends_its_task_and_no_other(datacomp: Command, world: Path, fault: str) -> None:  # noqa: F811
    shutil.copytree(world / "sets/mine", world / "sets/whole")
    (world / "tasks.yaml").write_text("- {key: mine/mine, folder: mine}\n- {key: mine/whole, folder: whole}\n")
    tar = world / "sets/mine/test/0.tar"
    tar.write_bytes(FAULTY_SETS[fault](tar.read_bytes()))
    places = ("--data", world / "sets", "--out", world / "out", "--add-tasks", world / "tasks.yaml")
    status, shown, problem = datacomp("evaluate", "--model", world / "model", *places)
    told = problem.replace("\n", " ")
    assert status == 1, told
    assert "failed: mine/mine" in told
    assert "0.tar" in told
    assert "mine/whole" in shown
    assert "Traceback" not in problem
