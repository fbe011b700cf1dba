"""Bundles: packed, checked elsewhere, and refused for every way in which one can lie."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import board_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.submission import access_tokens
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.unpack import unpack
from datacomp_core.leaderboard.submission.verify import VerificationResult, verify
from datacomp_core.store import Folder, Store

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, Path]:
    """A store, the address of its entry, and a bundle of it with its checkpoint."""
    folder = tmp_path_factory.mktemp("bundled")
    store = Store.open(str(folder / "store"))
    entry = world.true_run(store, "clip_score", world.results(0.14, 0))
    write_bundle(store, entry.address, folder / "good.tar", checkpoint=True, author="A. Person", text="What I did.")
    return store, entry.address, folder / "good.tar"


def read(bundle: Path) -> Files:
    with tarfile.open(bundle) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]


def pack(files: Files, out: Path) -> Path:
    """A bundle whose manifest is right for whatever is in it: what a forger would make."""
    listing = json.loads(files["MANIFEST.json"])
    rest = {name: data for name, data in files.items() if name != "MANIFEST.json"}
    listing["files"] = {name: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in rest.items()}
    with tarfile.open(out, "w") as archive:
        for name, data in {"MANIFEST.json": json.dumps(listing).encode(), **rest}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out


def check(bundle: Path, tmp_path: Path, **options: Any) -> VerificationResult:
    folder = tmp_path / f"unpacked-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return verify(bundle, folder, **options)


def broken(found: VerificationResult) -> set[str]:
    assert not found.ok
    return {finding.rule for finding in found.findings if finding.ok is False}


def test_a_good_bundle_holds_and_has_what_the_original_asked_for(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, address, bundle = made
    found = check(bundle, tmp_path, known_only=True)
    assert found.ok, found.findings
    assert found.entry is not None
    files = read(bundle)
    assert {"results.jsonl", "checkpoint.pt", "samples/subset.npy", "method.md", "entry.json", "MANIFEST.json"} < files.keys()
    lines = [json.loads(line) for line in files["results.jsonl"].decode().splitlines()]
    assert {line["key"]: line["metrics"]["main_metric"] for line in lines} == {
        f"tiny/{task}": value for task, value in world.results(0.14, 0).items()
    }
    assert "What I did." in files["method.md"].decode()
    kept = [world.row_uid(i) for i in range(world.NUM) if world.is_kept("clip_score", i)]
    assert uid.unpack(uid.read_subset(files["samples/subset.npy"], "it")).to_list() == sorted(kept)
    record = store.record(address)
    assert record is not None
    everything = b"".join(files.values())
    assert record.host["name"].encode() not in everything.replace(files["checkpoint.pt"], b"") or len(record.host["name"]) < 4


def test_the_same_entry_gives_the_same_bytes(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, address, bundle = made
    write_bundle(store, address, tmp_path / "again.tar", checkpoint=True, author="A. Person", text="What I did.")
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_only_an_entry_can_be_packed_and_only_whole(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, address, _ = made
    record = store.record(address)
    assert record is not None
    subset = record.inputs["subset"][0]["address"]
    with pytest.raises(SpecError, match="give a leaderboard entry to make a bundle"):
        write_bundle(store, subset, tmp_path / "no.tar")
    shutil.copytree(store.root.path, tmp_path / "copy")
    other = Store(Folder(tmp_path / "copy"))
    made_of = other.record(subset)
    assert made_of is not None
    (other.root / str(made_of.artifact["data"])).write(
        "subset.npy", other.root.read(f"{made_of.artifact['data']}/subset.npy")[:-16] + b"x" * 16
    )
    (tmp_path / "no.tar").write_bytes(b"an older one")
    with pytest.raises(DataError, match="is not the file its record names"):
        write_bundle(other, address, tmp_path / "no.tar")
    assert (tmp_path / "no.tar").read_bytes() == b"an older one"
    assert not list(tmp_path.glob(".*")), "nothing unfinished stays"


def better_scores(files: Files) -> None:
    """Scores raised in results and entry alike."""
    lines = [json.loads(line) for line in files["results.jsonl"].decode().splitlines()]
    for line in lines:
        line["metrics"]["main_metric"] += 0.1
    files["results.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    entry = json.loads(files["entry.json"])
    for task in entry["tasks"]:
        task["value"] += 0.1
    entry["average"] += 0.1
    files["entry.json"] = json.dumps(entry).encode()


def entry_only(files: Files) -> None:
    entry = json.loads(files["entry.json"])
    entry["average"] += 0.1
    files["entry.json"] = json.dumps(entry).encode()


def other_subset(files: Files) -> None:
    files["samples/subset.npy"] = uid.subset_bytes(uid.pack(pl.Series([world.row_uid(0)])))


def no_results(files: Files) -> None:
    del files["results.jsonl"]


def no_subset_record(files: Files) -> None:
    for name in [name for name in files if name.startswith("records/subsets/")]:
        del files[name]


def changed_spec(files: Files) -> None:
    """A training with another learning rate, said to be the scale's."""
    name = next(name for name in files if name.startswith("records/checkpoints/") and name.endswith(".json"))
    record = json.loads(files[name])
    record["spec"]["spec"]["recipe"]["learning_rate"] = 0.5
    files[name] = json.dumps(record).encode()


def changed_manifest(files: Files) -> None:
    name = next(name for name in files if name.startswith("records/reports/") and name.endswith(".parquet"))
    table = pl.read_parquet(io.BytesIO(files[name])).with_columns(pl.lit("0" * 64).alias("sha256"))
    data = io.BytesIO()
    table.write_parquet(data)
    files[name] = data.getvalue()


def data_outside(files: Files) -> None:
    name = next(name for name in files if name.startswith("records/entries/") and name.endswith(".json"))
    record = json.loads(files[name])
    record["artifact"]["data"] = "/tmp/elsewhere"
    record["adopted_from"] = "/tmp/elsewhere"
    files[name] = json.dumps(record).encode()


@pytest.mark.parametrize(
    ("forge", "rules"),
    [
        (better_scores, {"files"}),
        (entry_only, {"files", "scores"}),
        (other_subset, {"files", "subset and records"}),
        (no_results, {"bundle"}),
        (no_subset_record, {"bundle"}),
        (changed_spec, {"fingerprints"}),
        (changed_manifest, {"bundle"}),
        (data_outside, {"bundle"}),
        (lambda files: files.update({"entry.json": b"{}"}), {"bundle"}),
        (lambda files: files.update({"results.jsonl": b"not json"}), {"bundle", "files"}),
    ],
)
def test_a_forged_bundle_does_not_hold(
    made: tuple[Store, str, Path], tmp_path: Path, forge: Callable[[Files], None], rules: set[str]
) -> None:
    files = read(made[2])
    forge(files)
    found = check(pack(files, tmp_path / "forged.tar"), tmp_path, known_only=True)
    assert rules <= broken(found), found.findings


def test_uids_are_looked_up_where_the_pool_is_at_hand(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, _, bundle = made
    pool = next(record for record in store.records("pools"))
    found = check(bundle, tmp_path, pool=store.root / str(pool.artifact["data"]))
    assert found.ok
    small = Folder(tmp_path / "small")
    with small.writing("metadata/00000000.parquet") as path:
        pl.DataFrame({"uid": [world.row_uid(0)]}).write_parquet(path)
    assert broken(check(bundle, tmp_path, pool=small)) == {"uids of the pool"}


def test_what_arrived_is_compared_with_the_senders_shards(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    """The world's own download; one with other samples, one with a sample less, and none."""
    arrived = list(range(world.NUM - 4))
    shards = {"all": arrived, "others": [*arrived[:-1], world.NUM - 1], "fewer": arrived[1:]}
    for name, numbers in shards.items():
        world.write_shard(Folder(tmp_path / name), "00000000", numbers)
    told = dict[str, str]()
    for name in (*shards, "none"):
        (tmp_path / f"out-{name}").mkdir()
        found = verify(made[2], tmp_path / f"out-{name}", downloaded=Folder(tmp_path / name))
        assert found.ok == (name == "all")
        told[name] = next(finding.reason for finding in found.findings if finding.rule in ("arrived", "bundle"))
        assert str(tmp_path) not in told[name]
    chosen = sum(world.is_kept("clip_score", number) for number in arrived)
    assert told["all"].startswith(f"{len(arrived)} pairs arrived, {chosen} of the chosen among them")
    assert "of the uids that arrived" in told["others"]
    assert f"{len(arrived)} pairs that arrived, and these shards have {len(arrived) - 1}" in told["fewer"]
    assert "no index/" in told["none"]


def test_a_second_evaluation_decides(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, address, bundle = made
    seen: list[bytes] = []

    def again(checkpoint: Path, entry: Any) -> dict[str, float | None]:
        seen.append(checkpoint.read_bytes())
        return {task.key: task.value + 0.0001 for task in entry.tasks}

    assert check(bundle, tmp_path, reevaluate=again).ok
    assert seen == [b"weights"]
    assert broken(check(bundle, tmp_path, reevaluate=lambda path, entry: {})) == {"evaluated again"}
    write_bundle(store, address, tmp_path / "without.tar")
    assert broken(check(tmp_path / "without.tar", tmp_path, reevaluate=again)) == {"evaluated again"}


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


@pytest.mark.parametrize(
    "added",
    [
        member("../outside"),
        member("/etc/outside"),
        member("samples/../../outside"),
        member("samples/link", tarfile.SYMTYPE, link="/etc/passwd"),
        member("samples/hard", tarfile.LNKTYPE, link="entry.json"),
        member("samples/device", tarfile.CHRTYPE),
        member("samples", tarfile.DIRTYPE),
        member("extra.exe"),
        member("entry.json"),
        member("samples/unlisted.npy"),
    ],
)
def test_nothing_comes_out_of_a_hostile_archive(made: tuple[Store, str, Path], tmp_path: Path, added: tarfile.TarInfo) -> None:
    bad, out = tmp_path / "bad.tar", tmp_path / "a" / "out"
    out.mkdir(parents=True)
    shutil.copyfile(made[2], bad)
    with tarfile.open(bad, "a") as archive:
        archive.addfile(added, io.BytesIO(b""))
    with pytest.raises(DataError):
        unpack(bad, out)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.tar", "a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"out"}


def test_a_partial_or_damaged_archive_is_refused(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    data = made[2].read_bytes()
    for number, cut in enumerate((0, 100, 512, len(data) // 2, len(data) - 12_000)):
        (tmp_path / f"{number}.tar").write_bytes(data[:cut])
        assert broken(check(tmp_path / f"{number}.tar", tmp_path)) == {"bundle"}
    place = data.index(b"\x93NUMPY") + 200
    (tmp_path / "bit.tar").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    found = check(tmp_path / "bit.tar", tmp_path)
    assert broken(found) == {"bundle"}
    assert "its sha256 differs" in found.findings[0].reason
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(data))
    assert broken(check(tmp_path / "packed.tar.gz", tmp_path)) == {"bundle"}, "a compressed archive could grow without end"


def test_an_unsorted_subset_is_refused(made: tuple[Store, str, Path], tmp_path: Path) -> None:
    files, data = read(made[2]), io.BytesIO()
    uids = uid.read_subset(files["samples/subset.npy"], "it")[::-1]
    np.save(data, uids, allow_pickle=False)
    files["samples/subset.npy"] = data.getvalue()
    assert "bundle" in broken(check(pack(files, tmp_path / "unsorted.tar"), tmp_path))


def test_tokens_are_stored_as_hashes_and_can_be_renewed(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first, other = access_tokens.add(path, "alice"), access_tokens.add(path, "bob")
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    known = access_tokens.read(path)
    assert (access_tokens.owner(known, first), access_tokens.owner(known, other), access_tokens.owner(known, "dc_wrong")) == (
        "alice",
        "bob",
        None,
    )
    second = access_tokens.add(path, "alice")
    known = access_tokens.read(path)
    assert (access_tokens.owner(known, first), access_tokens.owner(known, second)) == (None, "alice")
    with pytest.raises(DataError, match="datacomp leaderboard token"):
        access_tokens.read(tmp_path / "none.json")
