"""Filters that balance: density-based quotas, D2 pruning, submodular cover, concept quotas and balanced draws, by brute force."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import feature_world as features
import filter_world as world
import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import (
    AllOf,
    BalanceClusters,
    BalanceSynsets,
    ConceptQuota,
    D2Prune,
    DensityPrune,
    Everything,
    Submodular,
    Words,
)
from datacomp_core.filters.balance_synsets import synsets
from datacomp_core.filters.d2_prune import of_both
from datacomp_core.filters.density_prune import quotas
from datacomp_core.filters.submodular import CoverageGain, greedy
from datacomp_core.sampling_key import sampling_keys
from datacomp_core.vectors import sparse_autoencoder


@pytest.fixture(params=["few files", "as if many"])
def as_if_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of every pool in many buckets that are brought together first, features in many pieces, as of a very large one."""
    if request.param == "as if many":
        features.regroup_always(monkeypatch)
        monkeypatch.setattr("datacomp_core.vectors.feature_pieces.PIECE_BYTES", 600)
        monkeypatch.setattr("datacomp_core.selection.threshold_search.FEW", 3)
        monkeypatch.setattr("datacomp_core.filters.concept_quota.ROWS_A_BUCKET", 20)


def _uids(table: list[world.Row], rows: Any) -> list[str]:
    return sorted(table[row]["uid"] for row in rows)


def _vectors(path: Path, seed: int, number: int) -> tuple[str, np.ndarray[Any, np.dtype[np.float64]]]:
    rows = features.unit(np.random.default_rng(seed).normal(size=(number, features.DIMENSIONS)))
    return features.saved(path, rows), rows


# What `pruning_qp` of the authors' prune.py (with osqp) gives for these sizes, shares and total, at 0 and at 0.5 of balance.
SHARES = [
    0.3431738799026472,
    0.12958674943327247,
    0.22479358571389757,
    0.09145247176631986,
    0.005208522204412066,
    0.07495548289277403,
    0.11092636711609818,
    0.01990294097057879,
]


def test_quotas_are_those_of_the_authors_quadratic_programme() -> None:
    sizes = np.array([40, 7, 90, 25, 3, 60, 12, 120])
    assert quotas(np.array(SHARES), sizes, 150).tolist() == [40, 7, 40, 20, 3, 18, 12, 10]
    assert quotas(np.array(SHARES), sizes, 150, 0.5).tolist() == [40, 7, 40, 20, 3, 18, 12, 10]
    assert quotas(np.array([0.5, 0.5, 0.0]), np.array([4, 9, 0]), 8).tolist() == [4, 4, 0]
    assert quotas(np.array([1.0, 0.0, 0.0]), np.array([9, 9, 9]), 12, 1.0).tolist() == [4, 4, 4]


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_density_prune_keeps_quotas_of_clusters(keep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.filters.density_prune.ROWS_A_BUCKET", 40)
    table = world.rows(21, 200)
    folder, images, _ = features.embedded(tmp_path / "m", table)
    name, centroids = _vectors(tmp_path / "c.npy", 22, 9)
    tree = DensityPrune(centroids=name, left=0.4, temperature=0.2, neighbors=3, keep=keep)
    found, done = world.kept(tree, folder, tmp_path / "out")
    known = [row for row in range(200) if np.isfinite(images[row, 0])]
    directions = features.unit(images.astype(np.float64))
    cosine = {row: centroids @ directions[row] for row in known}
    members = [[row for row in known if int(cosine[row].argmax()) == cluster] for cluster in range(9)]
    intra = [np.mean([1 - cosine[row][cluster] for row in members[cluster]]) for cluster in range(9)]
    between = np.sort(1 - centroids @ centroids.T, axis=1)[:, 1:4].mean(1)
    odds = np.exp(np.array(intra) * between / 0.2)
    quota = quotas(odds / odds.sum(), np.array([len(some) for some in members]), int(0.4 * len(known)))
    expected = []
    for cluster, some in enumerate(members):
        order = sorted(some, key=lambda row: cosine[row][cluster] * (1 if keep == "hard" else -1))
        expected += order[: quota[cluster]]
    assert found == _uids(table, expected)
    assert abs(len(found) - int(0.4 * len(known))) <= 2
    assert done.explanation.steps[0].without_value == 20


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize(("neighbors", "distance"), [(1, "image_text"), (3, "image")])
def test_d2_takes_the_best_again_and_again(
    neighbors: int, distance: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datacomp_core.filters.d2_prune.ROWS_A_BUCKET", 50)
    table = world.rows(23, 160)
    folder, images, texts = features.embedded(tmp_path / "m", table)
    name, centroids = _vectors(tmp_path / "c.npy", 24, 4)
    tree = D2Prune(centroids=name, neighbors=neighbors, distance=distance, left=0.35)
    found, _ = world.kept(tree, folder, tmp_path / "out")
    score = [row["clip_l14_similarity_score"] for row in table]
    known = [row for row in range(160) if np.isfinite(images[row, 0]) and score[row] is not None]
    cluster = {row: int((centroids @ images[row]).argmax()) for row in known}
    points = images if distance == "image" else np.concatenate([images, texts], axis=1)
    far = {
        row: {o: float(((points[row] - points[o]) ** 2).sum()) for o in known if o != row and cluster[o] == cluster[row]}
        for row in known
    }
    near = {row: sorted(far[row], key=far[row].__getitem__)[:neighbors] for row in known}
    start = {row: max(score[row] + 0.115, 1e-7) for row in known}
    now = {row: start[row] + sum(np.exp(-far[row][o]) * start[o] for o in near[row]) for row in known}
    taken: list[int] = []
    while len(taken) < int(0.35 * len(known)):
        best = max((row for row in known if row not in taken), key=now.__getitem__)
        taken.append(best)
        for other in near[best]:
            now[other] -= now[best] * np.exp(-far[best][other])
    assert found == _uids(table, taken)


@pytest.mark.parametrize("seed", range(20))
def test_images_and_captions_of_a_part_meet_however_their_blocks_are_cut(seed: int) -> None:
    random = np.random.default_rng(seed)
    sides, streams = list[np.ndarray[Any, Any]](), list[list[Any]]()
    for _ in range(2):
        rows = np.flatnonzero(random.random(50) < random.choice([0.0, 0.3, 0.9]))
        edges = np.unique(random.integers(1, 50, random.integers(0, 9)))
        blocks = np.split(rows, np.searchsorted(rows, edges))
        sides.append(rows)
        streams.append([(some, some[:, None] + 100 * len(sides)) for some in blocks if len(some)])
    found = list(of_both(iter(streams[0]), iter(streams[1])))
    expected = sorted(set(sides[0].tolist()) & set(sides[1].tolist()))
    assert [row for rows, _, _ in found for row in rows.tolist()] == expected
    assert [row for _, images, _ in found for row in (images[:, 0] - 100).tolist()] == expected
    assert [row for _, _, texts in found for row in (texts[:, 0] - 200).tolist()] == expected


def _value(worth: tuple[Any, ...], chosen: list[int], codes: Any, bins: Any) -> float:
    """The objective, as it is written."""
    weight, target, bin_weights = worth
    units = Counter(int(unit) for row in chosen for unit in codes[row] if unit >= 0)
    in_bin = Counter(int(bins[row]) for row in chosen)
    first = sum(target[unit] * np.log1p(count) for unit, count in units.items())
    return weight * first + (1 - weight) * sum(bin_weights[own] * np.log1p(count) for own, count in in_bin.items())


def test_greedy_is_brute_force_greedy_of_the_objective() -> None:
    random = np.random.default_rng(25)
    codes = np.sort(np.stack([random.choice(12, 3, replace=False) for _ in range(40)]), axis=1).astype(np.int32)
    codes[::7, 0] = -1
    bins = random.integers(0, 3, 40).astype(np.uint8)
    target, bin_weights = random.dirichlet(np.ones(12)), np.array([0.0, 0.01, 0.99])
    found = greedy(CoverageGain.of(0.6, target, bin_weights), codes, bins, 15, 0, "any")
    chosen: list[int] = []
    for _ in range(15):
        gains = {row: _value((0.6, target, bin_weights), [*chosen, row], codes, bins) for row in range(40) if row not in chosen}
        chosen.append(max(gains, key=lambda row: (round(gains[row], 12), -row)))
    assert found.tolist() == sorted(chosen)
    again = greedy(CoverageGain.of(0.6, target, bin_weights), codes, bins, 15, 6, "key").tolist()
    assert again == greedy(CoverageGain.of(0.6, target, bin_weights), codes, bins, 15, 6, "key").tolist()
    best = _value((0.6, target, bin_weights), chosen, codes, bins)
    assert len(set(again)) == 15
    assert 0.9 * best < _value((0.6, target, bin_weights), again, codes, bins) <= best + 1e-12


@pytest.mark.slow
def test_the_autoencoder_finds_what_rows_are_made_of() -> None:
    """Rows are sums of two of twelve directions: rows with the same two share codes far more often than others do."""
    random = np.random.default_rng(26)
    parts = np.linalg.qr(random.normal(size=(16, 16)))[0][:12]
    pairs = [tuple(sorted(random.choice(12, 2, replace=False))) for _ in range(1000)]
    rows = features.unit(np.array([parts[a] + parts[b] for a, b in pairs]) + 0.02 * random.normal(size=(1000, 16)))
    learned = sparse_autoencoder.train(rows.astype(np.float32), 48, 4, epochs=8, batch=128, learning_rate=0.02)
    codes = learned.codes(rows.astype(np.float32))
    assert codes.shape == (1000, 4)
    sets = [frozenset(code[code >= 0].tolist()) for code in codes]
    shared = {True: [0, 0], False: [0, 0]}
    for one, two in random.integers(0, 1000, (4000, 2)):
        count = shared[pairs[one] == pairs[two]]
        count[0] += len(sets[one] & sets[two])
        count[1] += len(sets[one] | sets[two])
    assert shared[True][0] / shared[True][1] > 0.6
    assert shared[False][0] / shared[False][1] < 0.3
    assert (sparse_autoencoder.train(rows[:500].astype(np.float32), 8, 2).codes(rows[:9].astype(np.float32)) < 8).all()


def test_submodular_keeps_its_share_of_good_rows_that_cover_the_target(tmp_path: Path) -> None:
    table = world.rows(27, 240)
    folder, images, _ = features.embedded(tmp_path / "m", table, num_parts=3)
    known = [row for row in range(240) if np.isfinite(images[row, 0]) and table[row]["clip_l14_similarity_score"] is not None]
    name = features.saved(tmp_path / "t.npy", images[known[:60]])
    tree = Submodular(target=name, left=0.25, units=32, active=3, epochs=5, epsilon=0, bin_edges=(0.5,), bin_weights=(0.0, 1.0))
    found, done = world.kept(tree, folder, tmp_path / "out")
    assert len(found) == int(0.25 * len(known))
    assert done.explanation.steps[0].without_value == 240 - len(known)
    assert found == world.kept(tree, folder, tmp_path / "again")[0]
    score = {row["uid"]: row["clip_l14_similarity_score"] for row in table}
    middle = float(np.median([score[table[row]["uid"]] for row in known]))
    good = np.mean([score[name] >= middle for name in found])
    plain = Submodular(target=name, left=0.25, units=32, active=3, epochs=5, epsilon=0, weight=1.0)
    assert good > np.mean([score[name] >= middle for name in world.kept(plain, folder, tmp_path / "plain")[0]])
    with pytest.raises(ValidationError, match="a weight of 0 or more for each quality bin"):
        Submodular(target=name, bin_edges=(0.5, 0.9), bin_weights=(0.0, 1.0))
    with pytest.raises(ValidationError, match="quantiles between 0 and 1"):
        Submodular(target=name, bin_edges=(0.9, 0.5))


def test_submodular_of_no_row_keeps_none_and_says_what_it_lacks(tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(27, 60))
    name = features.saved(tmp_path / "t.npy", images[1:9])
    tree = Submodular(target=name, units=8, active=2)
    found, _ = world.kept(AllOf(filters=(Words(at_least=99), tree)), folder, tmp_path / "out")
    assert found == []
    with pytest.raises(DataError, match="None of the about 1 rows that were drawn .* use more training_rows"):
        world.kept(tree.model_copy(update={"training_rows": 1, "seed": 3}), folder, tmp_path / "few")


@pytest.mark.usefixtures("as_if_many")
@pytest.mark.parametrize("prefer", [None, "b32"])
@pytest.mark.parametrize("form", ["list", "text"])
def test_concept_quotas_are_filled_in_order(prefer: Any, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.filters.concept_quota.ROWS_A_BUCKET", 45)
    table = world.rows(28, 200)
    folder = world.write(tmp_path / "m", table)
    random = np.random.default_rng(29)
    names = ["dog", "cat", "tree", "car", "house"]
    held = {row["uid"]: list(random.choice(names, random.integers(1, 4), p=[0.5, 0.2, 0.15, 0.1, 0.05])) for row in table[::2]}
    held["f" * 32] = ["dog"]
    held[table[0]["uid"]] = []
    rows = [{"uid": name, "concepts": own if form == "list" else " , ".join(own)} for name, own in held.items()]
    schema = {"uid": pl.String, "concepts": pl.List(pl.String) if form == "list" else pl.String}
    pl.DataFrame(rows, schema=schema).write_parquet(tmp_path / "concepts.parquet")
    tree = ConceptQuota(annotations=str(tmp_path / "concepts.parquet"), quota=12, prefer=prefer, seed=3)
    found, done = world.kept(tree, folder, tmp_path / "out")
    by_lot = dict(
        zip((row["uid"] for row in table), sampling_keys(uid.pack(pl.Series([r["uid"] for r in table])), 3).tolist(), strict=True)
    )
    column = "clip_b32_similarity_score"

    def place(row: world.Row) -> tuple[float, int]:
        score = row[column] if prefer else 0.0
        return (-score if score is not None else np.inf, by_lot[row["uid"]])

    counts: Counter[str] = Counter()
    expected = []
    for row in sorted((row for row in table if held.get(row["uid"])), key=place):
        own = set(held[row["uid"]])
        if any(counts[concept] < 12 for concept in own):
            expected.append(row["uid"])
            counts.update(own)
    assert found == sorted(expected)
    assert done.explanation.dropped["no annotated concept"] == 101
    assert 20 < len(expected) < 99


def test_wrong_annotations_are_told(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", world.rows(30, 20))
    pl.DataFrame({"uid": ["0" * 32], "things": [3]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SpecError, match="Unknown column of .*'concepts'"):
        world.kept(ConceptQuota(annotations=str(tmp_path / "a.parquet")), folder, tmp_path / "out")
    with pytest.raises(DataError, match="column 'things' is Int64: it must contain lists of text, or text"):
        world.kept(ConceptQuota(annotations=str(tmp_path / "a.parquet"), column="things"), folder, tmp_path / "out")
    with pytest.raises(ValidationError, match="Cannot read .*nowhere"):
        ConceptQuota(annotations=str(tmp_path / "nowhere.parquet"))


def _drawn(tree: Any, folder: Any, out: Path) -> Counter[str]:
    return Counter(world.kept(tree, folder, out)[0])


def test_cluster_draws_are_in_proportion_to_the_size_to_alpha(tmp_path: Path) -> None:
    table = world.rows(31, 120)
    folder, images, _ = features.embedded(tmp_path / "m", table)
    name, centroids = _vectors(tmp_path / "c.npy", 32, 5)
    tree = BalanceClusters(filter=Everything(), centroids=name, alpha=0.3, num_draws=400_000, at_most_draws=10**6)
    counts = _drawn(tree, folder, tmp_path / "out")
    known = [row for row in range(120) if np.isfinite(images[row, 0])]
    cluster = {row: int((centroids @ images[row]).argmax()) for row in known}
    sizes = Counter(cluster.values())
    share = {row: sizes[cluster[row]] ** (0.3 - 1) for row in known}
    total = sum(share.values())
    assert counts.total() == 400_000
    for row in range(120):
        expected = 400_000 * share.get(row, 0) / total
        assert abs(counts[table[row]["uid"]] - expected) <= 6 * np.sqrt(expected)


def test_synset_draws_weigh_by_rare_classes_and_are_capped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = world.rows(33, 90)
    for place, row in enumerate(table):
        row["text"] = ["a dog", "dogs in a garden", "two dogs", "a beach", "nothing of it und", None][place % 6]
    folder = world.write(tmp_path / "m", table)
    both = {"mean": lambda w: float(np.mean(w)), "max": max}
    known = dict(synsets().iter_rows())
    held = [{known[w] for w in (row["text"] or "").lower().split() if w in known} for row in table]
    number = Counter(one for own in held for one in own)
    for over, aggregate in both.items():
        tree = BalanceSynsets(filter=Words(at_least=1), alpha=0.0, over=over, num_draws=300_000, at_most_draws=10**6, seed=4)  # pyright: ignore[reportArgumentType]
        counts = _drawn(tree, folder, tmp_path / over)
        share = [aggregate([1 / number[one] for one in own]) if own else 0.0 for own in held]
        for row, own in zip(table, share, strict=True):
            expected = 300_000 * own / sum(share)
            assert abs(counts[row["uid"]] - expected) <= 6 * np.sqrt(expected) + 1e-9
    assert known["dog"] == known["dogs"] != known["beach"]
    capped = _drawn(BalanceSynsets(filter=Everything(), num_draws=7000, at_most_draws=100, alpha=0.0), folder, tmp_path / "c")
    assert max(capped.values()) == 100
    assert capped.total() == min(7000, 100 * sum(bool(own) for own in held))
    caplog.clear()
    few = _drawn(BalanceSynsets(filter=Everything(), num_draws=10**6, at_most_draws=3), folder, tmp_path / "few")
    assert set(few.values()) == {3}
    assert f"{10**6 - few.total():,} draws found no row" in caplog.text
    even = world.kept(AllOf(filters=(Words(at_least=2),)), folder, tmp_path / "w")[0]
    assert _drawn(BalanceSynsets(filter=Words(at_least=2)), folder, tmp_path / "n").total() == len(even)


def test_a_cluster_keeps_at_most_all_but_one_of_its_images_by_the_minimum() -> None:
    """A minimum above a cluster's size: the authors' lower bound is one image less than it has."""
    sizes = np.array([2, 50, 50])
    found = quotas(np.array([0.0, 0.5, 0.5]), sizes, total=30, balance=0.9)
    assert found.tolist() == [1, 14, 14] or found.tolist() == [1, 15, 15]
    assert quotas(np.array([0.0, 1.0]), np.array([0, 9]), total=5, balance=0.9).tolist() == [0, 5]
