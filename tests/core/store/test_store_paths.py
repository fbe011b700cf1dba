"""Every character of a path stands for itself: `[`, `*`, `?`, `{`, `%` and `#` name one place and never match another."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from datacomp_core.parts import scan, scan_tables
from datacomp_core.store import Folder

HOSTILE = (
    "r*1",
    "r?1",
    "r[X]1",
    "a[1-9]b",
    "{a,b}",
    "x::y",
    "100%25",
    "a%20b",
    "a b",
    "a#b",
    "ü",
    "[!a]",
    "**",
    "it's",
    "a+b",
    "~x",
)
SIBLINGS = ("rX1", "r1", "a1b", "a", "b", "x", "y", "100%", "ü2", "x1", "its", "home")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "root") if request.param == "local" else Folder(request.getfixturevalue("s3_url"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_with_any_name_is_that_folder_alone(root: Folder, name: str) -> None:
    for sibling in SIBLINGS:
        (root / sibling).write("part.parquet", b"sibling")
        (root / sibling).write(f"{name}.parquet", b"sibling")
    folder = root / name
    assert not folder.exists()
    assert folder.files() == {}
    with folder.writing(f"{name}.parquet") as path:
        pl.DataFrame({"uid": [name], "n": [1]}).write_parquet(path)
    folder.write("deep/more", b"more")
    assert sorted(folder.files()) == sorted([f"{name}.parquet", "deep/more"])
    assert scan(folder, name).collect().rows() == [(name, 1)]
    assert scan_tables(folder, f"{name}.parquet").select("uid").collect()["uid"].to_list() == [name]
    assert folder.is_file(f"{name}.parquet")
    assert not root.is_file(name)
    assert folder.read_range("deep/more", 1, 3) == b"or"
    assert folder.read_ranges([("deep/more", 0, 2)]) == [b"mo"]
    folder.remove(f"{name}.parquet")
    assert list(folder.files()) == ["deep/more"]
    assert name in root.folders()
    folder.remove()
    folder.remove()
    assert sorted(root.files()) == sorted(f"{s}/{f}" for s in SIBLINGS for f in ("part.parquet", f"{name}.parquet"))


def test_a_name_that_would_match_a_sibling_reads_nothing(root: Folder) -> None:
    with (root / "data1").writing("part.parquet") as path:
        pl.DataFrame({"uid": ["sibling"]}).write_parquet(path)
    with pytest.raises((FileNotFoundError, OSError, pl.exceptions.PolarsError)):
        scan(root / "data[1]", "part").collect()
