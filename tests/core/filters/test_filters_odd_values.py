"""NaN anywhere in a row of features, infinity among scores, and columns of other types: cast, counted as missing, or refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.filters import ImageClusters, Mix, SemDedup, Threshold, TopFraction
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores import score_of
from datacomp_core.scores.compute import compute
from datacomp_core.selection.select import SubsetSpec, select
from datacomp_core.store import Folder

ROWS = 12
NAMES = [f"{row:032x}" for row in range(ROWS)]


def write(home: Path, **columns: Any) -> Folder:
    home.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"uid": NAMES, "text": [f"text {row}" for row in range(ROWS)]} | columns).write_parquet(
        home / "00000000.parquet"
    )
    return Folder(home)


def chosen(wanted: Any, home: Folder, out: Path, **options: Any) -> list[int]:
    select(SubsetSpec(recipe="mine", filter=wanted), home, out=Folder(out), **options)
    kept = uid.unpack(uid.read_subset((out / "subset.npy").read_bytes(), "it")).to_list()
    return [int(name, 16) for name in kept]


SCORES = [0.1 * row for row in range(ROWS)]
TYPES: dict[str, tuple[pl.Series, list[int]]] = {
    "decimal": (pl.Series([Decimal(row) / 10 for row in range(ROWS)], dtype=pl.Decimal(10, 2)), [8, 9, 10, 11]),
    "bool": (pl.Series([row % 2 == 0 for row in range(ROWS)]), [0, 2, 4, 6, 8, 10]),
    "integer": (pl.Series([row % 2 for row in range(ROWS)], dtype=pl.Int8), [1, 3, 5, 7, 9, 11]),
    "float16": (pl.Series(SCORES, dtype=pl.Float32), [8, 9, 10, 11]),
    "half of nothing": (pl.Series([None] * 9 + [1.0] * 3), [9, 10, 11]),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_score_of_one_meaning_is_cast(kind: str, tmp_path: Path) -> None:
    column, want = TYPES[kind]
    home = write(tmp_path / "m", mine=column)
    assert chosen(Threshold(score="mine", at_least=0.75), home, tmp_path / "out") == want


def test_a_column_of_no_type_has_no_value(tmp_path: Path) -> None:
    home = write(tmp_path / "m", mine=pl.Series([None] * ROWS, dtype=pl.Null))
    with pytest.raises(DataError, match="has no value in any row"):
        chosen(Threshold(score="mine", at_least=0.75), home, tmp_path / "out")


@pytest.mark.parametrize("wanted", [Threshold(score="mine", at_least=0.7), TopFraction(score="mine", fraction=0.5)])
def test_text_is_no_score(wanted: Any, tmp_path: Path) -> None:
    home = write(tmp_path / "m", mine=[str(score) for score in SCORES])
    with pytest.raises(DataError, match=r"The column 'mine' cannot be used as a score: it contains String"):
        chosen(wanted, home, tmp_path / "out")


@pytest.mark.parametrize("kind", ["dictionary", "16 bytes", "32 bytes"])
def test_uids_of_one_meaning_are_read(kind: str, tmp_path: Path) -> None:
    given = {
        "dictionary": pl.Series(NAMES, dtype=pl.Categorical),
        "16 bytes": pl.Series([bytes.fromhex(name) for name in NAMES]),
        "32 bytes": pl.Series([name.encode() for name in NAMES]),
    }[kind]
    home = write(tmp_path / "m", uid=given, text=pl.Series(["a"] * ROWS, dtype=pl.Categorical), mine=SCORES)
    assert chosen(Threshold(score="mine", at_least=0.75), home, tmp_path / "out") == [8, 9, 10, 11]


def test_numbers_are_no_uids(tmp_path: Path) -> None:
    home = write(tmp_path / "m", uid=list(range(ROWS)), mine=SCORES)
    with pytest.raises(DataError, match=r"The column 'uid' of .*00000000.parquet contains Int64, not uids: write 32 hex digits"):
        chosen(Threshold(score="mine", at_least=0.7), home, tmp_path / "out")


def test_infinity_at_the_cut_is_a_score_like_any_other(tmp_path: Path) -> None:
    home = write(tmp_path / "m", mine=[float("inf")] * 4 + [float("-inf")] + SCORES[5:])
    assert chosen(TopFraction(score="mine", fraction=0.25, cut="at_fraction"), home, tmp_path / "out") == [0, 1, 2, 3]
    assert json.loads((tmp_path / "out/histogram.json").read_text())["cut"] is None
    assert chosen(Mix(weights={"mine": 1.0}, best=0.25), home, tmp_path / "mix") == [9, 10, 11]


def features(home: Path, bad: tuple[int, int, float]) -> Any:
    array = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    whole = array.astype(np.float16)
    row, place, value = bad
    broken = whole.copy()
    broken[row, place] = value
    np.savez(home / "00000000.npz", l14_img=broken, l14_txt=whole[::-1])  # pyright: ignore[reportArgumentType]
    return whole.astype(np.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 3])
def test_one_bad_value_takes_its_row_out_and_no_other(value: float, place: int, tmp_path: Path) -> None:
    home = write(tmp_path / "m")
    whole = features(tmp_path / "m", (5, place, value))
    others = [row for row in range(ROWS) if row != 5]
    np.save(tmp_path / "centroids.npy", whole[:3])
    source = PoolSource(home)
    for text in ("neg_clip_loss", f"norm_sim:target={tmp_path}/centroids.npy"):
        score = score_of(text)
        assert score is not None
        folder = compute(score, source, Folder(tmp_path / text.partition(":")[0]))
        values = pl.read_parquet(folder.at("00000000.parquet"))[score.column_name]
        assert [row for row in range(ROWS) if values[row] is None] == [5]
    clusters = ImageClusters(centroids=f"{tmp_path}/centroids.npy", target=f"{tmp_path}/centroids.npy")
    assert chosen(clusters, home, tmp_path / "out") == others, "all clusters are wanted, so all that can be judged pass"
    assert chosen(SemDedup(centroids=f"{tmp_path}/centroids.npy", epsilon=0.01), home, tmp_path / "dedup") == others


def test_vectors_with_nan_are_refused(tmp_path: Path) -> None:
    home = write(tmp_path / "m")
    whole = features(tmp_path / "m", (5, 0, 0.0))
    whole[1, 2] = np.nan
    np.save(tmp_path / "bad.npy", whole)
    with pytest.raises(DataError, match=r"bad.npy.* has NaN or infinity in row 1"):
        chosen(ImageClusters(centroids=f"{tmp_path}/bad.npy", target=f"{tmp_path}/bad.npy"), home, tmp_path / "out")


def test_hidden_files_are_no_parts_and_another_ending_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = write(tmp_path / "m", mine=SCORES)
    (tmp_path / "m/._00000000.parquet").write_bytes(b"AppleDouble")
    assert chosen(Threshold(score="mine", at_least=0.75), home, tmp_path / "out") == [8, 9, 10, 11]
    assert "._00000000.parquet" in caplog.text
    (tmp_path / "m/00000001.PARQUET").write_bytes((tmp_path / "m/00000000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"00000001.PARQUET is not read as a part.*rename it"):
        chosen(Threshold(score="mine", at_least=0.75), home, tmp_path / "out2")
