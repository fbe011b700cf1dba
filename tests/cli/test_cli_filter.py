"""Filters on the command line: embeddings and computed scores of plain folders, centroids, and set operations on subset files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli.main import main

ROWS = 400


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    folder = tmp_path / "metadata"
    folder.mkdir()
    for part in range(2):
        images, texts = (chance.normal(size=(ROWS // 2, 8)) for _ in range(2))
        np.savez(folder / f"{part:08d}.npz", l14_img=images.astype(np.float16), l14_txt=(images + texts).astype(np.float16))
        frame = {
            "uid": [f"{part:016x}{row:016x}" for row in range(ROWS // 2)],
            "text": ["a photo of a dog on the beach"] * (ROWS // 2),
            "clip_l14_similarity_score": chance.normal(size=ROWS // 2).astype(np.float32),
        }
        pl.DataFrame(frame).write_parquet(folder / f"{part:08d}.parquet")
    return folder


def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any, str]:
    monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
    settings.cache_clear()
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    told, errors = capfd.readouterr()
    return int(str(ended.value.code)), json.loads(told) if told.startswith("{") else told, errors


def test_cluster_then_image_based_then_what_two_subsets_share(
    metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("target.npy", np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32))
    status, told, errors = call(
        capfd, monkeypatch, "cluster", "--metadata", "metadata", "--num-clusters", "9", "--out", "centroids.npy", "--json"
    )
    assert (status, told["num_clusters"], told["dimensions"]) == (0, 9, 8), errors
    recipe = "image_based:centroids=centroids.npy,target=target.npy"
    status, told, errors = call(capfd, monkeypatch, "filter", "--metadata", "metadata", "-r", recipe, "--out", "a.npy", "--json")
    assert status == 0, errors
    assert 0 < told["num_samples"] < ROWS
    shared = ("--metadata", "metadata", "-r", "clip_score:fraction=0.5", "--against", "a.npy", "--json")
    status, told, errors = call(capfd, monkeypatch, "filter", *shared, "--explain")
    assert status == 0, errors
    [overlap] = told["overlaps"]
    assert call(capfd, monkeypatch, "filter", *shared, "--out", "b.npy")[0] == 0
    a, b = (set(uid.unpack(uid.read_subset(Path(name).read_bytes(), name)).to_list()) for name in ("a.npy", "b.npy"))
    assert overlap["shared"] == len(a & b)
    Path("a.txt").write_text("\n".join(sorted(a, key=lambda one: one[::-1])))
    status, other, errors = call(capfd, monkeypatch, "filter", *shared[:-3], "--against", "a.txt", "--json", "--explain")
    assert status == 0, errors
    assert other["overlaps"] == [overlap | {"against": "a.txt"}], "of any form and order"
    status, told, _ = call(capfd, monkeypatch, "subset", "compare", "a.npy", "b.npy", "--json")
    assert told["jaccard"] == pytest.approx(len(a & b) / len(a | b))
    status, told, _ = call(capfd, monkeypatch, "subset", "intersection", "a.npy", "b.npy", "--out", "c.npy", "--json")
    assert (status, told["num_samples"]) == (0, len(a & b))
    assert "Jaccard" in call(capfd, monkeypatch, "subset", "compare", "a.npy", "b.npy")[1]


def test_computed_scores_are_kept_for_the_next_recipe(
    metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ("--metadata", "metadata", "--keep-scores", "scores", "--json")
    status, first, errors = call(capfd, monkeypatch, "filter", *shared, "-r", "neg_clip_loss:drawings=2", "--out", "a.npy")
    assert (status, first["num_samples"]) == (0, int(ROWS * 0.3)), errors
    made = {path: path.stat().st_mtime_ns for path in Path("scores").rglob("*.parquet")}
    assert len(made) == 2
    again = "neg_clip_loss:drawings=2,fraction=0.1"
    status, second, _ = call(capfd, monkeypatch, "filter", *shared, "-r", again, "--out", "b.npy")
    assert (status, second["num_samples"]) == (0, int(ROWS * 0.1))
    assert {path: path.stat().st_mtime_ns for path in Path("scores").rglob("*.parquet")} == made
    a, b = (set(uid.unpack(uid.read_subset(Path(name).read_bytes(), name)).to_list()) for name in ("a.npy", "b.npy"))
    assert b < a


@pytest.mark.s3
def test_metadata_and_scores_and_the_subset_may_lie_in_a_bucket(
    metadata: Path, tmp_path: Path, s3_url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in metadata.iterdir():
        Folder(f"{s3_url}/metadata").write(path.name, path.read_bytes())
    recipe = ("-r", "neg_clip_loss:drawings=2", "--json")
    assert call(capfd, monkeypatch, "filter", "--metadata", "metadata", *recipe, "--out", "a.npy")[0] == 0
    there = ("--metadata", f"{s3_url}/metadata", "--keep-scores", f"{s3_url}/scores", "--out", f"{s3_url}/b.npy")
    status, told, errors = call(capfd, monkeypatch, "filter", *there, *recipe, "--against", "a.npy")
    assert (status, told["overlaps"][0]["weighted_jaccard"]) == (0, 1.0), errors
    assert Folder(s3_url).read("b.npy") == Path("a.npy").read_bytes()
    assert call(capfd, monkeypatch, "subset", "difference", "a.npy", f"{s3_url}/b.npy", "--out", f"{s3_url}/c.npy")[0] == 0
    assert Folder(s3_url).read("c.npy") == uid.subset_bytes(np.empty(0, uid.DTYPE))


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("filter", "--metadata", "metadata", "-r", "near_dedup", "--explain"), 1, "reads images, but this pool has none"),
        (("filter", "--metadata", "metadata", "-r", "sem_dedup:centroids=no.npy", "--explain"), 2, "no.npy is not readable"),
        (("subset", "compare", "a.npy"), 2, "needs exactly two subset files"),
        (("subset", "union", "a.npy", "b.npy"), 2, "--out"),
        (("subset", "union", "nowhere.npy", "a.npy", "--out", "c.npy"), 1, "nowhere.npy is not there"),
        (("cluster", "--metadata", "metadata", "--out", "c.txt"), 2, "does not end with .npy"),
        (("cluster", "--metadata", "metadata", "--embeddings", "b32", "--out", "c.npy"), 1, "no embeddings 'b32_img'"),
    ],
)
def test_wrong_requests_are_one_sentence(
    arguments: tuple[str, ...],
    status: int,
    sentence: str,
    metadata: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npy", "b.npy"):
        Path(name).write_bytes(uid.subset_bytes(np.empty(0, uid.DTYPE)))
    found, told, errors = call(capfd, monkeypatch, *arguments)
    assert (found, told) == (status, "")
    assert sentence in errors
    assert "Traceback" not in errors


def test_features_that_carry_uids_are_joined_by_them(
    metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(name: str) -> tuple[int, Any, str]:
        status, _, errors = call(
            capfd,
            monkeypatch,
            "filter",
            "--metadata",
            str(metadata),
            "-r",
            "neg_clip_loss",
            "--out",
            f"{tmp_path}/{name}",
            "--json",
        )
        return status, np.load(tmp_path / name).tolist() if status == 0 else None, errors.replace("\n", " ")

    npz = metadata / "00000000.npz"
    with np.load(npz) as found:
        arrays = {name: found[name] for name in found.files}
    status, right, errors = kept("right.npy")
    assert status == 0, errors
    uids = np.array(pl.read_parquet(metadata / "00000000.parquet")["uid"].to_list())
    order = np.random.default_rng(2).permutation(len(uids))
    stranger: Any = {name: np.concatenate([array[order], array[:1]]) for name, array in arrays.items()}
    np.savez(npz, **stranger, uid=np.append(uids[order], "f" * 32))
    assert kept("shuffled.npy")[:2] == (0, right), "a row of another pool is no matter"

    without: Any = {name: array[order[1:]] for name, array in arrays.items()}
    np.savez(npz, **without, uid=uids[order[1:]])
    status, some, errors = kept("without.npy")
    assert status == 0, errors
    lost = tuple(uid.pack(pl.Series([str(uids[order[0]])]))[0].tolist())
    assert lost not in some
    assert len(some) == len(right)

    np.savez(npz, **without, uid=np.append(uids[order[2:]], uids[order[2]]))
    assert "more than once" in kept("twice.npy")[2]
    np.savez(npz, **without, uid=np.array([f"{row:032x}" for row in range(10**6, 10**6 + len(uids) - 1)]))
    assert "it is not the npz of this part" in kept("strange.npy")[2]
    np.savez(npz, **without, uid=uids[order])
    assert f"has {len(uids)} rows of uids and other l14_img features ({len(uids) - 1} rows in" in kept("short.npy")[2]
    np.savez(npz, **without)
    assert f"has {len(uids)} rows of metadata and other l14_img features" in kept("positional.npy")[2]
    np.savez(npz, l14_img=arrays["l14_img"][:, :7], l14_txt=arrays["l14_txt"])
    status, _, errors = kept("dimensions.npy")
    assert (status, "l14_img has 7 dimensions and l14_txt 8" in errors, "Traceback" in errors) == (1, True, False)


@pytest.mark.parametrize("kind", ["image_size", "aspect_ratio"])
def test_sizes_that_are_no_numbers_keep_no_row(
    kind: str, metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: mine\nfilter: {{kind: {kind}}}\n")
    path = metadata / "00000000.parquet"
    (metadata / "00000001.parquet").unlink()
    table = pl.read_parquet(path).with_columns(original_height=pl.lit(300))
    wide = [300.0, float("nan"), float("inf"), None] * (table.height // 4)
    told = ("filter", "--metadata", str(metadata), "-r", f"{tmp_path}/mine.yaml", "--out", f"{tmp_path}/out.npy", "--json")
    table.with_columns(pl.Series("original_width", wide)).write_parquet(path)
    status, found, errors = call(capfd, monkeypatch, *told)
    assert (status, found["num_samples"]) == (0, table.height // 4), errors
    assert list(found["dropped"].values()) == [table.height * 3 // 4]
    table.with_columns(original_width=pl.lit("300")).write_parquet(path)
    status, _, errors = call(capfd, monkeypatch, *told)
    assert status == 1
    assert "The column 'original_width'" in errors
    assert "contains String, not numbers of pixels: write it as int32." in errors.replace("\n", " ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_finite_features_is_dropped_with_a_reason(
    value: float, metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "centroids.npy", np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32))
    with np.load(metadata / "00000000.npz") as found:
        arrays: Any = {name: found[name] for name in found.files}
    arrays["l14_img"][5, 6] = value
    np.savez(metadata / "00000000.npz", **arrays)
    recipe = f"{{kind: image_clusters, centroids: {tmp_path}/centroids.npy, target: {tmp_path}/centroids.npy}}"
    for text in (recipe, f"{{kind: sem_dedup, centroids: {tmp_path}/centroids.npy}}", "{kind: norm_sim_d}"):
        (tmp_path / "mine.yaml").write_text(f"name: mine\nfilter: {text}\n")
        told = ("filter", "--metadata", str(metadata), "-r", f"{tmp_path}/mine.yaml", "--explain", "--json")
        status, found, errors = call(capfd, monkeypatch, *told)
        assert status == 0, errors
        assert found["dropped"]["no finite features l14_img"] == 1
        assert found["num_samples"] + sum(found["dropped"].values()) == ROWS


NOISY = """
import os
import polars as pl
from datacomp_core.filters import BatchFilter, register

@register("noisy")
class Noisy(BatchFilter):
    \"\"\"Prints, as a library may.\"\"\"

    def columns(self):
        return frozenset({"text"})

    def judge(self, rows):
        print("a line of Python")
        os.write(1, b"a line of native code\\n")
        os.system("echo a line of a child")
        return pl.Series([True] * len(rows))

    def title(self):
        return "everything"
"""


@pytest.mark.parametrize("more", [("--out", "kept.npy"), ("--explain",)])
def test_with_json_standard_output_has_the_result_alone_whatever_else_is_printed(
    more: tuple[str, ...], metadata: Path, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    told = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "filter", "--metadata", "metadata", "-r", "noisy.py", *more, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert isinstance(json.loads(told.stdout), dict)
    assert all(f"a line of {whose}" in told.stderr for whose in ("Python", "native code", "a child")), told.stderr


def test_a_subset_without_a_row_is_an_error_with_its_reasons_and_no_file(
    metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nfilter: {kind: words, at_least: 99}\n")
    told = ("filter", "--metadata", str(metadata), "-r", f"{tmp_path}/mine.yaml", "--json")
    status, found, errors = call(capfd, monkeypatch, *told, "--out", f"{tmp_path}/out.npy")
    assert (status, found["num_samples"], found["out"]) == (1, 0, None)
    assert found["dropped"] == {"fewer than 99 words": ROWS}
    assert f"keeps none of the {ROWS} rows of {metadata} (fewer than 99 words {ROWS})" in errors.replace("\n", " ")
    assert not (tmp_path / "out.npy").exists()
    earlier = ("--metadata", str(metadata), "-r", "no_filter", "--json", "--out", f"{tmp_path}/out.npy")
    assert call(capfd, monkeypatch, "filter", *earlier)[0] == 0
    before = (tmp_path / "out.npy").read_bytes()
    against = ("--against", f"{tmp_path}/out.npy")
    status, found, _ = call(capfd, monkeypatch, *told, *against, "--out", f"{tmp_path}/out.npy")
    assert (status, found["num_samples"], found["overlaps"]) == (1, 0, [])
    assert (tmp_path / "out.npy").read_bytes() == before, "an earlier subset stays where no other takes its place"
    status, found, _ = call(capfd, monkeypatch, *told, *against, "--explain")
    assert (status, found["num_samples"]) == (0, 0), "a dry run only tells"


def test_a_mistyped_column_is_told_before_a_score_is_computed(
    metadata: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "filter: {kind: all, filters: [{kind: top_fraction, score: 'neg_clip_loss:drawings=1', fraction: 0.5}, "
        "{kind: top_fraction, score: esthetic, fraction: 0.5}]}"
    )
    shared = ("--metadata", "metadata", "--keep-scores", "scores", "-r", "mine.yaml", "--out", "a.npy")
    status, _, errors = call(capfd, monkeypatch, "filter", *shared)
    assert status != 0
    assert "Column 'esthetic' is not in part 00000000" in errors
    assert not list(Path("scores").rglob("*.parquet"))
