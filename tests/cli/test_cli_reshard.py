"""`datacomp reshard` on plain folders, without a server: read back by a reader that knows nothing of ours."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from datacomp_core import uid
from datacomp_core.settings import settings
from deployments.cli.main import main

FACE = 3
Command = Callable[..., tuple[int, str, str]]


def name_of(number: int) -> str:
    return f"{number:032x}"


def write_shard(path: Path, numbers: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for place, number in enumerate(numbers):
            picture = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(picture, "JPEG")
            about = json.dumps({"uid": name_of(number)}).encode()
            for extension, content in (("jpg", picture.getvalue()), ("json", about), ("txt", b"words")):
                member = tarfile.TarInfo(f"{place:09d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def keys_of(folder: Path) -> Counter[str]:
    names: list[str] = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            names += archive.getnames()
    return Counter(name.partition(".")[0] for name in names if name.endswith(".json"))


@pytest.fixture
def datacomp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("DATACOMP_WORKERS", "1")
        monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capfd.readouterr()

    return call


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two shards of a pool, one of one's own, metadata with a face, and a subset with a repeat."""
    write_shard(tmp_path / "pool/00000000.tar", list(range(6)))
    write_shard(tmp_path / "pool/00000001.tar", list(range(6, 12)))
    write_shard(tmp_path / "mine/a.tar", list(range(100, 104)))
    (tmp_path / "metadata").mkdir()
    boxes = [[[0.1, 0.1, 0.6, 0.6]] if number == FACE else [] for number in range(12)]
    table = pl.DataFrame({"uid": [name_of(number) for number in range(12)], "face_bboxes": boxes})
    table.with_columns(pl.col("face_bboxes").cast(pl.List(pl.List(pl.Float64)))).write_parquet(tmp_path / "metadata/0.parquet")
    for name, numbers in (("s", [1, FACE, FACE, 8]), ("both", [1, 8, 101, 101])):
        packed = uid.pack(pl.Series([name_of(number) for number in numbers]))
        (tmp_path / f"{name}.npy").write_bytes(uid.subset_bytes(packed))
    return tmp_path


def test_out_several_shards_and_a_dry_run(datacomp: Command, world: Path) -> None:
    pool, mine, out = str(world / "pool"), str(world / "mine"), world / "out"
    both = ("reshard", "--shards", pool, "--shards", mine, "--subset", str(world / "both.npy"), "--json")
    status, told, problem = datacomp(*both, "--dry-run")
    assert status == 0, problem
    dry = json.loads(told)
    assert (dry["subset"], dry["written"]) == (4, 4)
    status, told, problem = datacomp(*both, "--out", str(out), "--samples-per-shard", "3")
    assert status == 0, problem
    assert json.loads(told)["written"] == 4
    assert keys_of(out) == Counter(f"{name_of(n)}-{copy}" for n, copy in ((1, 0), (8, 0), (101, 0), (101, 1)))
    assert sorted(path.name for path in out.glob("*.tar")) == ["00000000.tar", "00000001.tar"]
    status, _, problem = datacomp("reshard", "--shards", pool, "--subset", str(world / "both.npy"), "--out", str(world / "lost"))
    assert status == 1
    assert "unknown 2" in problem
    assert not list((world / "lost").glob("*.tar"))


def test_faces_and_a_part_of_the_shards(datacomp: Command, world: Path) -> None:
    given = ("reshard", "--shards", str(world / "pool"), "--subset", str(world / "s.npy"), "--json")
    faces = ("--faces", "blur_and_inject", "--metadata", str(world / "metadata"), "--quality", "80")
    status, _, problem = datacomp(*given, *faces, "--out", str(world / "out"))
    assert status == 0, problem
    with tarfile.open(world / "out/00000000.tar") as archive:
        names = set(archive.getnames())
        file = archive.extractfile(f"{name_of(FACE)}-1.json")
        assert file is not None
        assert json.loads(file.read())["face_bboxes"] == [[0.1, 0.1, 0.6, 0.6]]
    assert {f"{name_of(FACE)}-0.webp", f"{name_of(FACE)}-1.webp", f"{name_of(1)}-0.jpg"} < names
    status, told, problem = datacomp(*given, "--first-shard", "1", "--num-shards", "1", "--out", str(world / "part"))
    assert status == 0, problem
    assert json.loads(told)["missing_not_in_part"] == 3
    assert keys_of(world / "part") == Counter([f"{name_of(8)}-0"])


def test_folders_are_mixed_by_weights_and_a_uid_of_two_gives_both_pairs(datacomp: Command, tmp_path: Path) -> None:
    write_shard(tmp_path / "a/00000000.tar", [1, 2, 3])
    write_shard(tmp_path / "b/00000000.tar", [3, 4])
    given = ["--shards", str(tmp_path / "a"), "--shards", str(tmp_path / "b")]
    out = tmp_path / "out"
    status, told, _ = datacomp("reshard", *given, "--weight", "1", "--weight", "2", "--out", str(out), "--json")
    assert (status, json.loads(told)["written"]) == (0, 7)
    written = keys_of(out)
    assert set(written.values()) == {1}
    assert Counter(key.partition("-")[0] for key in written) == {name_of(1): 1, name_of(2): 1, name_of(3): 3, name_of(4): 2}
    status, told, _ = datacomp("reshard", *given, "--weight", "1", "--weight", "2", "--out", str(out), "--json")
    assert (status, json.loads(told)["written"]) == (0, 7)
    for wrong, why in ((["1"], "1 weights for 2 shard sets"), (["1", "nan"], "numbers of 0 or more"), (["0", "0"], "is empty")):
        weights = [word for one in wrong for word in ("--weight", one)]
        status, _, error = datacomp("reshard", *given, *weights, "--out", str(tmp_path / "no"))
        assert status != 0
        assert why in " ".join(error.split())
        assert "Traceback" not in error
    status, _, error = datacomp("reshard", *given, "--weight", "1", "--weight", "1", "--subset", "s.npy", "--out", str(out))
    assert status != 0
    assert "mixes whole folders" in " ".join(error.split())
