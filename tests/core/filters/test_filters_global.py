"""Filters that look at all rows at once, against their definitions by brute force: duplicates, NormSim-D, mixes, soft caps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import feature_world as features
import filter_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core.errors import DataError
from datacomp_core.filters import (
    AllOf,
    Distinct,
    Everything,
    ImageClusters,
    Mix,
    NormSimD,
    SemDedup,
    SoftCap,
    Threshold,
    Words,
    norm_sim_d,
)
from datacomp_core.filters.sum_tree import SumTree
from datacomp_core.store import Folder
from datacomp_core.vectors.nearest import by_torch, nearest, resolve_ties


@pytest.fixture(params=["few files", "as if many"])
def as_if_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of every pool in many buckets that are brought together first, as those of a very large one."""
    if request.param == "as if many":
        features.regroup_always(monkeypatch)
        monkeypatch.setattr("datacomp_core.filters.distinct.ROWS_A_BUCKET", 10)


def _uids(table: list[world.Row], rows: Any) -> list[str]:
    return sorted(table[row]["uid"] for row in rows)


def test_image_clusters_keep_what_shares_a_cluster_with_the_target(tmp_path: Path) -> None:
    table = world.rows(1, 120)
    folder, images, _ = features.embedded(tmp_path / "m", table)
    chance = np.random.default_rng(2)
    centroids, target = chance.normal(size=(20, features.DIMENSIONS)), chance.normal(size=(6, features.DIMENSIONS))
    names = [features.saved(tmp_path / f"{name}.npy", rows) for name, rows in (("c", centroids), ("t", target))]
    found, done = world.kept(ImageClusters(centroids=names[0], target=names[1]), folder, tmp_path / "out")
    wanted = {int(place) for place in (target @ centroids.T).argmax(1)}
    known = [row for row in range(120) if np.isfinite(images[row, 0])]
    assert found == _uids(table, [row for row in known if int((centroids @ images[row]).argmax()) in wanted])
    assert done.explanation.steps[0].without_value == 12


def test_nearest_is_exact_where_single_precision_cannot_tell() -> None:
    chance = np.random.default_rng(3)
    rows = features.unit(chance.normal(size=(200, 64))).astype(np.float32)
    centroids = np.concatenate([rows[:50] * np.float32(1 + 1e-7), rows[:50], chance.normal(size=(30, 64)).astype(np.float32)])
    expected = (rows.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(1)
    assert nearest(rows, centroids, "cpu").tolist() == expected.tolist()
    assert resolve_ties(rows, centroids, *by_torch(rows, centroids, 2, "cpu")).tolist() == expected.tolist()
    assert nearest(rows[:0], centroids, "cpu").shape == (0,)


@pytest.mark.gpu
def test_nearest_on_a_gpu_is_that_of_a_cpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    chance = np.random.default_rng(4)
    rows, centroids = (features.unit(chance.normal(size=(n, 768))).astype(np.float32) for n in (5000, 3000))
    assert nearest(rows, centroids, "cuda").tolist() == nearest(rows, centroids, "cpu").tolist()


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize("prefer", ["", "l14"])
def test_distinct_keeps_the_first_of_equal_captions(prefer: str, tmp_path: Path) -> None:
    table = world.rows(5, 200)
    tree = AllOf(filters=(Words(at_least=1), Distinct(by="text", prefer=prefer)))
    found, done = world.kept(tree, world.write(tmp_path / "m", table), tmp_path / "out")
    best: dict[str, world.Row] = {}
    for row in sorted(table, key=lambda row: (-(row["clip_l14_similarity_score"] or -9) if prefer else 0, row["uid"])):
        if row["text"]:
            best.setdefault(row["text"], row)
    assert found == sorted(row["uid"] for row in best.values())
    assert done.explanation.dropped["a copy by text"] > 10


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_distinct_drops_hashes_near_one_before(bits: int, tmp_path: Path) -> None:
    table = world.rows(6, 150)
    folder = world.write(tmp_path / "m", table)
    chance = np.random.default_rng(7)
    hashes = [int(value) for value in chance.integers(-(2**63), 2**63, 150)]
    for place in range(1, 150, 2):
        flips = sum(1 << int(bit) for bit in set(chance.integers(0, 63, int(chance.integers(0, 8)))))
        hashes[place] = hashes[place - 1] ^ flips
    _beside(folder, tmp_path / "s", "perceptual_hash", [None if place % 50 == 9 else value for place, value in enumerate(hashes)])
    found, done = world.kept(
        Distinct(by="perceptual_hash", at_most_bits=bits), folder, tmp_path / "out", scores=[Folder(tmp_path / "s")]
    )
    known = sorted((row["uid"], hashes[place]) for place, row in enumerate(table) if place % 50 != 9)
    expected = [name for name, value in known if not any(_differ(value, o) <= bits for u, o in known if u < name)]
    assert found == expected
    assert done.explanation.steps[0].without_value == 3


def _differ(a: int, b: int) -> int:
    return ((a ^ b) & (2**64 - 1)).bit_count()


def _beside(metadata: Folder, folder: Path, name: str, values: list[Any]) -> None:
    folder.mkdir()
    start = 0
    for file in metadata.files(".parquet"):
        uids = pl.read_parquet(metadata.at(file), columns=["uid"])
        uids.with_columns(pl.Series(name, values[start : start + len(uids)])).write_parquet(folder / file)
        start += len(uids)


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_sem_dedup_drops_what_is_like_one_before(keep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.filters.sem_dedup.ROWS_A_BUCKET", 40)
    table = world.rows(8, 160)
    folder, images, _ = features.embedded(tmp_path / "m", table)
    centroids = np.random.default_rng(9).normal(size=(7, features.DIMENSIONS))
    name = features.saved(tmp_path / "c.npy", centroids)
    found, _ = world.kept(SemDedup(centroids=name, epsilon=0.06, keep=keep), folder, tmp_path / "out")
    known = [row for row in range(160) if np.isfinite(images[row, 0])]
    directions = features.unit(images.astype(np.float64))
    expected = []
    for cluster in range(7):
        mine = [row for row in known if int((centroids @ images[row]).argmax()) == cluster]
        near = {row: float(directions[row] @ features.unit(centroids[[cluster]])[0]) for row in mine}
        order = sorted(mine, key=lambda row: near[row] if keep == "hard" else -near[row])
        expected += [r for n, r in enumerate(order) if not any(directions[r] @ directions[o] > 0.94 for o in order[:n])]
    assert found == _uids(table, expected)
    assert len(expected) < len(known) - 10


@pytest.mark.parametrize("held", [64, 0])
def test_norm_sim_d_shrinks_a_set_that_is_its_own_target(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where matrices of parts that are done before their turn wait on the disk."""
    monkeypatch.setattr(norm_sim_d, "MOST_IN_MEMORY", held)
    if held == 0:
        in_order = norm_sim_d.results_in_order
        monkeypatch.setattr(norm_sim_d, "results_in_order", lambda done, *given: in_order(reversed(list(done)), *given))
    table = world.rows(10, 100)
    folder, images, _ = features.embedded(tmp_path / "m", table)
    tree = AllOf(filters=(Threshold(score="b32", at_least=-0.5), NormSimD(left=0.4, steps=7)))
    found, done = world.kept(tree, folder, tmp_path / "out")
    left = [row for row in range(100) if (table[row]["clip_b32_similarity_score"] or -9) >= -0.5 and np.isfinite(images[row, 0])]
    start = len(left)
    for number in range(1, 8):
        rows = images[left].astype(np.float64)
        scores = np.einsum("nd,de,ne->n", rows, rows.T @ rows, rows)
        size = start - round((start - int(start * 0.4)) * number / 7)
        left = [left[place] for place in sorted(np.argsort(-scores, kind="stable")[:size])]
    assert found == _uids(table, left)
    assert done.num_samples == int(start * 0.4)


def test_a_mix_is_the_weighted_sum_of_standard_scores(tmp_path: Path) -> None:
    table = world.rows(11, 300)
    tree = AllOf(filters=(Words(at_least=2), Mix(weights={"b32": 0.3, "l14": 0.7}, best=0.25)))
    found, _ = world.kept(tree, world.write(tmp_path / "m", table), tmp_path / "out")
    names = {"clip_b32_similarity_score": 0.3, "clip_l14_similarity_score": 0.7}
    mix = {}
    for name, weight in names.items():
        values = np.array([row[name] for row in table if row[name] is not None])
        for row in table:
            if row[name] is not None:
                mix.setdefault(row["uid"], []).append(weight * (row[name] - values.mean()) / values.std())
    came = [row["uid"] for row in table if row["text"] is not None and len(row["text"].split()) >= 2]
    whole = sorted((name for name in came if len(mix.get(name, [])) == 2), key=lambda name: -sum(mix[name]))
    assert found == sorted(whole[: int(len(came) * 0.25)])


def test_a_tree_draws_in_proportion_also_after_changes() -> None:
    chance = np.random.default_rng(12)
    shares = chance.random(5000) ** 4
    shares[::7] = 0
    tree = SumTree(shares.copy())
    changed = np.array([3, 4, 4998])
    tree.change(changed, np.array([50.0, 0.0, 20.0]))
    shares[changed] = [50.0, 0.0, 20.0]
    assert tree.total == pytest.approx(shares.sum())
    counts = np.bincount(tree.draw(chance, 400_000), minlength=5000)
    assert not counts[shares == 0].any()
    expected = shares / shares.sum() * 400_000
    big = expected > 30
    assert (np.abs(counts[big] - expected[big]) < 6 * np.sqrt(expected[big])).all()


def test_a_soft_cap_draws_as_its_plain_form_does(tmp_path: Path) -> None:
    """One draw a batch has no freedom but chance: compared with many runs of the definition, counts agree in the mean."""
    table = world.rows(13, 40)
    scores = [row["clip_l14_similarity_score"] for row in table]
    folder = world.write(tmp_path / "m", table)
    total = Counter[str]()
    runs = 12
    for seed in range(runs):
        tree = SoftCap(filter=Everything(), weights={"l14": 20.0}, num_samples=120, penalty=0.5, batch=1, seed=seed)
        found, done = world.kept(tree, folder, tmp_path / f"out{seed}")
        assert len(found) == done.num_samples == 120
        total.update(found)
    chance, expected = np.random.default_rng(0), np.zeros(40)
    for _ in range(runs * 4):
        logits = np.array([-np.inf if score is None else 20 * score for score in scores])
        for _ in range(120):
            shares = np.exp(logits - logits.max())
            row = chance.choice(40, p=shares / shares.sum())
            expected[row] += 1 / (runs * 4)
            logits[row] -= 0.5
    mean = np.array([total[row["uid"]] / runs for row in table])
    assert np.abs(mean - expected).max() < 1.2
    assert all(total[row["uid"]] == 0 for row, score in zip(table, scores, strict=True) if score is None)


def test_a_hard_cap_and_a_filter_bound_a_soft_cap(tmp_path: Path) -> None:
    table = world.rows(14, 60)
    folder = world.write(tmp_path / "m", table)
    tree = SoftCap(filter=Words(at_least=3), num_samples=10_000, batch=1, penalty=0.0, hard_cap=3)
    found, done = world.kept(tree, folder, tmp_path / "out")
    drawable = [r["uid"] for r in table if len((r["text"] or "").split()) >= 3 and r["clip_l14_similarity_score"] is not None]
    assert Counter(found) == dict.fromkeys(drawable, 3)
    assert done.num_unique == len(drawable)
    again, _ = world.kept(tree, folder, tmp_path / "again")
    assert again == found


def test_surveys_see_only_who_comes_and_work_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.selection.worker_pool.COSTLY_ROWS_FOR_A_PROCESS", 1)
    monkeypatch.setattr("datacomp_core.selection.worker_pool.COSTLIEST_ROWS_FOR_A_PROCESS", 1)
    table = world.rows(15, 80)
    for row in table:
        row["text"] = "twice the same"
    folder = world.write(tmp_path / "m", table)
    tree = AllOf(filters=(Distinct(by="text"), Threshold(score="b32", at_least=0.0)))
    found, _ = world.kept(tree, folder, tmp_path / "a", workers=2)
    first = min(table, key=lambda row: row["uid"])
    assert found == [first["uid"]] * ((first["clip_b32_similarity_score"] or -9) >= 0)
    tree = AllOf(filters=(Threshold(score="b32", at_least=0.0), Distinct(by="text")))
    found, _ = world.kept(tree, folder, tmp_path / "b")
    assert found == [min(row["uid"] for row in table if (row["clip_b32_similarity_score"] or -9) >= 0)]


def test_features_of_another_length_are_told(tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(16, 30), num_parts=1)
    name = features.saved(tmp_path / "c.npy", np.eye(features.DIMENSIONS))
    for size in (29, 31):
        np.savez(tmp_path / "m" / "00000000.npz", l14_img=np.resize(images, (size, features.DIMENSIONS)))
        with pytest.raises(DataError, match="has 30 rows of metadata and other l14_img features"):
            world.kept(SemDedup(centroids=name), folder, tmp_path / "out")
    with pytest.raises(DataError, match="dimensions and the embeddings"):
        np.savez(tmp_path / "m" / "00000000.npz", l14_img=images[:, :8])
        world.kept(SemDedup(centroids=name), folder, tmp_path / "out")
