"""Samples whose members lie apart are put together in new tars: as many, with the same bytes, or an error that says why not."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from odd_tars import Members, pack, picture, sample, samples, uid_of

from datacomp_core.errors import DataError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.regroup import regroup
from datacomp_core.sample_members import MemberNames
from datacomp_core.shards import read_index, read_samples, shard_names
from datacomp_core.store import Folder, Store

USUAL = MemberNames()


def kind_of(member: tuple[str, bytes]) -> str:
    return member[0].rpartition(".")[2]


def by_kind(first: int) -> Members:
    return sorted(samples(range(first, first + 4)), key=kind_of)


def in_folders(first: int, form: str) -> Members:
    return [(form.format(kind_of(member), name=member[0]), member[1]) for member in by_kind(first)]


def by_brute_force(*tars: bytes) -> dict[str, dict[str, bytes]]:
    """Members by the last part of their names, as tarfile reads them."""
    found: dict[str, dict[str, bytes]] = {}
    for data in tars:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for info in archive:
                stem, _, kind = info.name.rpartition("/")[2].rpartition(".")
                found.setdefault(stem, {})[kind] = archive.extractfile(info).read()  # type: ignore[union-attr]
    return found


def adopted(root: Folder, store: Path) -> dict[str, dict[str, bytes]]:
    spec, here = AdoptedPoolSpec(source=root.url), Store.open(str(store))
    adopt_shards(spec, adopt_metadata(spec, store=here), store=here)
    return {one: members for name in shard_names(root) for one, members in read_samples(root, read_index(root, name))}


@pytest.mark.parametrize("form", ["{name}", "{0}/{name}", "a/{0}/{name}", "{0}/b/{name}", "./{0}/{name}"])
def test_samples_in_pieces_become_whole(tmp_path: Path, form: str) -> None:
    root, target = Folder(tmp_path / "old"), Folder(tmp_path / "new")
    tars = {"a": pack(in_folders(0, form)), "b": pack(samples(range(4, 8))), "c": pack(in_folders(8, form))}
    for name, data in tars.items():
        root.write(f"{name}.tar", data)
    root.write("b.parquet", b"beside")
    assert regroup(root, root, target, USUAL) == ["a", "c"]
    assert target.read("b.tar") == tars["b"]
    assert target.read("b.parquet") == b"beside"
    (target.path / "b.parquet").unlink()
    expected = {uid_of(int(key)): members for key, members in by_brute_force(*tars.values()).items()}
    assert len(expected) == 12
    assert adopted(target, tmp_path / "store") == expected
    before = {path: path.stat().st_mtime_ns for path in target.path.glob("*.tar")}
    assert regroup(root, root, target, USUAL) == ["a", "c"]
    assert {path: path.stat().st_mtime_ns for path in target.path.glob("*.tar")} == before  # the indexes stay valid


def test_any_order_of_members_ends_as_the_same_samples(tmp_path: Path) -> None:
    root, target = Folder(tmp_path / "old"), Folder(tmp_path / "new")
    members = [*samples(range(6)), ("README", b"x")]
    expected = {uid_of(int(key)): found for key, found in by_brute_force(pack(samples(range(6)))).items()}
    for seed in range(3):
        random.Random(seed).shuffle(members)
        root.write("a.tar", pack(members))
        assert regroup(root, root, target, USUAL) == ["a"]
        assert adopted(target, tmp_path / f"store{seed}") == expected
        target.remove()


def test_folders_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    root, target = Folder(tmp_path / "old"), Folder(tmp_path / "new")
    tar = [(f"{part}/{kind_of(member)}/{member[0]}", member[1]) for part in ("x", "y") for member in by_kind(0)]
    root.write("a.tar", pack([member for member in tar if not member[0].endswith("json")]))
    regroup(root, root, target, USUAL)
    with tarfile.open(target.path / "a.tar") as archive:
        names = archive.getnames()
    assert names == [f"{part}/{n:09d}.{kind}" for part in "xy" for n in range(4) for kind in ("jpg", "txt")]


def test_what_names_do_not_tell_is_an_error_that_names_all(tmp_path: Path) -> None:
    root, target = Folder(tmp_path / "old"), Folder(tmp_path / "new")
    twice = [("1.jpg", picture(1)), ("1.jpg", picture(2)), ("1.txt", b"a"), ("1.txt", b"b")]
    root.write("a.tar", pack([("0.jpg", picture(0)), *twice, ("0.txt", b"c")]))
    root.write("b.tar", pack(samples(range(3)))[:5000])
    root.write("c.tar", pack(sample(9)))
    with pytest.raises(DataError) as problem:
        regroup(root, root, target, USUAL)
    assert "2 of the tars in" in str(problem.value)
    assert "a.tar: the key '1' has more than one member 'jpg'" in str(problem.value)
    assert "b.tar is damaged: it is truncated" in str(problem.value)
    assert not target.exists()


def test_the_target_is_a_folder_of_its_own(tmp_path: Path) -> None:
    root = Folder(tmp_path / "old")
    root.write("a.tar", pack(by_kind(0)))
    for other in (root, root / "in", Folder(tmp_path)):
        with pytest.raises(DataError, match="are nested"):
            regroup(root, root, other, USUAL)
    Folder(tmp_path / "new").write("other.tar", b"x")
    with pytest.raises(DataError, match=r"other\.tar is not one of the tars"):
        regroup(root, root, Folder(tmp_path / "new"), USUAL)


def test_metadata_and_shards_keep_their_folders(tmp_path: Path) -> None:
    root, target = Folder(tmp_path / "old"), Folder(tmp_path / "new")
    root.write("shards/a.tar", pack(by_kind(0)))
    root.write("metadata/0.parquet", b"rows")
    assert regroup(root, root / "shards", target, USUAL) == ["a"]
    assert sorted(target.files()) == ["metadata/0.parquet", "shards/a.tar"]


@pytest.mark.s3
def test_in_a_bucket(s3_url: str, tmp_path: Path) -> None:
    root, target = Folder(f"{s3_url}/old"), Folder(f"{s3_url}/new")
    tar = pack(by_kind(0))
    root.write("a.tar", tar)
    assert regroup(root, root, target, USUAL) == ["a"]
    assert adopted(target, tmp_path / "store") == {uid_of(int(key)): found for key, found in by_brute_force(tar).items()}
