"""The sample, its map, search, near-duplicates and clusters, each against numpy, scipy or plain Python."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from datacomp_core.errors import SpecError
from datacomp_core.explore import duplicates, pool_index
from datacomp_core.explore.clusters import NONE, cluster_names, cluster_words, clustered
from datacomp_core.explore.duplicates import groups, near_pairs
from datacomp_core.explore.layout import layout
from datacomp_core.explore.sample import PoolSample, draw
from datacomp_core.explore.search import exact_index
from datacomp_core.pool_source import PoolSource
from datacomp_core.sampling_key import sampling_keys
from datacomp_core.selection.select import select
from datacomp_core.store import Folder
from datacomp_core.uid import pack

MASK = (1 << 64) - 1
ROWS, SIZE = 400, 16


def lot_by_hand(uid: str) -> int:
    """splitmix64 over the two halves of a uid, keyed with 0xE7, written anew in plain integers."""

    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    return mixed(mixed(int(uid[:16], 16) ^ mixed(0xE7)) ^ int(uid[16:], 16))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> PoolSource:
    """Three parts; uids count up, so that they are no hashes; every tenth row has no features."""
    folder, random = tmp_path_factory.mktemp("pool"), np.random.default_rng(3)
    for part in range(3):
        uids = [f"{part * ROWS + row:032x}" for row in range(ROWS)]
        vectors = random.normal(size=(ROWS, SIZE)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[::10] = np.nan
        pl.DataFrame(
            {
                "uid": uids,
                "url": [f"https://u:p@Host{row % 3}.example:81/a?{row}" for row in range(ROWS)],
                "text": [None if row % 50 == 0 else f"a caption of {row} words\nhere" for row in range(ROWS)],
                "original_width": [100 + row for row in range(ROWS)],
                "original_height": [200] * ROWS,
                "clip_l14_similarity_score": random.normal(size=ROWS).astype(np.float32),
                "face_bboxes": [[[0.0, 0.1, 0.2, 0.3]]] * ROWS,
            }
        ).write_parquet(folder / f"{part:08d}.parquet")
        np.savez(folder / f"{part:08d}.npz", l14_img=vectors.astype(np.float16), l14_txt=vectors[::-1].astype(np.float16))
    return PoolSource(Folder(str(folder)))


@pytest.fixture(scope="module")
def everything(pool: PoolSource, tmp_path_factory: pytest.TempPathFactory) -> PoolSample:
    return draw(pool, 10_000, tmp_path_factory.mktemp("all"))


def features(pool: PoolSource) -> npt.NDArray[np.float32]:
    return np.concatenate([pool.whole(part, "l14_img") for part in pool.parts()]).astype(np.float32)


def test_explore_sample_is_what_the_hash_of_the_uid_says(pool: PoolSource, tmp_path: Path) -> None:
    made = draw(pool, 300, tmp_path / "300")
    all_uids = [f"{number:032x}" for number in range(3 * ROWS)]
    by_hand = [uid for uid in all_uids if lot_by_hand(uid) < 300 * (1 << 64) // (3 * ROWS)]
    assert made.rows["uid"].to_list() == by_hand
    assert 230 < made.num_rows < 370
    assert not made.is_whole
    assert [lot_by_hand(uid) for uid in all_uids[:5]] == sampling_keys(pack(pl.Series(all_uids[:5])), 0xE7).tolist()
    smaller = draw(pool, 100, tmp_path / "100")
    assert set(smaller.rows["uid"]) < set(by_hand)
    wanted = features(pool)[[int(uid, 16) for uid in by_hand]]
    np.testing.assert_array_equal(made.vectors("l14_img").astype(np.float32), wanted)


def test_explore_sample_that_was_interrupted_ends_with_the_same_bytes(pool: PoolSource, tmp_path: Path) -> None:
    from datacomp_core.explore.sample import _draw_part, _gathered  # pyright: ignore[reportPrivateUsage]

    whole_run, resumed = draw(pool, 300, tmp_path / "one"), tmp_path / "two"
    (resumed / "parts").mkdir(parents=True)
    _draw_part(pool, whole_run.last, ["l14_img", "l14_txt"], resumed / "parts", "00000001")
    (resumed / "parts" / ".00000000.arrow").write_bytes(b"half")
    draw(pool, 300, resumed)
    for name in ("rows.arrow", "l14_img.npy", "l14_txt.npy", "sample.json"):
        assert (resumed / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert callable(_gathered)


def test_explore_sample_knows_words_language_host_and_shape(everything: PoolSample) -> None:
    rows = everything.rows
    assert rows["words"].to_list()[:2] == [None, 6]
    assert set(rows["host"]) == {"host0.example", "host1.example", "host2.example"}
    assert set(rows["language"].drop_nulls()) == {"en"}
    assert rows["aspect_ratio"][150] == pytest.approx(250 / 200)
    assert rows["num_face_bboxes"].to_list()[:2] == [1, 1]


def test_explore_search_finds_what_numpy_finds(pool: PoolSource, everything: PoolSample) -> None:
    stored, random = features(pool), np.random.default_rng(5)
    known = np.isfinite(stored).all(axis=1)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    index = exact_index(everything.vectors("l14_img"))
    among = random.random(len(stored)) < 0.3
    for _ in range(20):
        query = random.normal(size=SIZE).astype(np.float32)
        cosine = np.where(known, unit @ (query / np.linalg.norm(query)), -2)
        found = index.search(query, 25)
        np.testing.assert_allclose(found.scores, np.sort(cosine)[::-1][:25], atol=2e-3)
        np.testing.assert_allclose(cosine[found.rows], found.scores, atol=2e-3)
        inside = index.search(query, 25, among)
        np.testing.assert_allclose(inside.scores, np.sort(np.where(among, cosine, -2))[::-1][:25], atol=2e-3)
        assert among[inside.rows].all()
    assert len(index.search(np.ones(SIZE), 10, np.zeros(len(stored), np.bool_)).rows) == 0
    for odd in (np.ones(3), np.zeros(SIZE), np.full(SIZE, np.nan)):
        with pytest.raises(SpecError, match="finite numbers"):
            index.search(odd, 5)


def test_explore_index_of_the_whole_pool_finds_what_numpy_finds(pool: PoolSource, everything: PoolSample, tmp_path: Path) -> None:
    built = pool_index.build(pool, "l14_img", everything.vectors("l14_img"), tmp_path / "whole")
    built.index.nprobe = built.index.nlist  # every list: what is left is the rounding to 8 bits
    stored = features(pool)
    unit = np.nan_to_num(stored / np.linalg.norm(stored, axis=1, keepdims=True))
    agreed = 0
    for seed in range(10):
        query = np.random.default_rng(seed).normal(size=SIZE)
        best = set(np.argsort(-(unit @ query))[:10].tolist())
        agreed += len(best & {pool.parts().index(part) * ROWS + row for part, row, _ in built.search(query, 10)})
    assert built.num_vectors == int(np.isfinite(stored).all(axis=1).sum())
    assert agreed >= 95
    assert pool_index.build(pool, "l14_img", everything.vectors("l14_img"), tmp_path / "whole").num_vectors == built.num_vectors


@pytest.mark.parametrize("num_sampled", [12, 3 * ROWS])
def test_explore_index_prints_nothing(
    num_sampled: int, pool: PoolSource, everything: PoolSample, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """faiss prints from C++: warnings of a training on few pictures, and the size of its file."""
    pool_index.build(pool, "l14_img", everything.vectors("l14_img")[:num_sampled], tmp_path / "whole")
    os.write(1, b"heard")
    assert tuple(capfd.readouterr()) == ("heard", "")


def test_explore_map_is_the_principal_components(pool: PoolSource, everything: PoolSample) -> None:
    places, stored = layout(everything.vectors("l14_img"), "pca"), features(pool)
    known = np.isfinite(stored).all(axis=1)
    centred = stored[known] - stored[known].mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    for axis in range(2):
        assert abs(np.corrcoef(places[known, axis], centred @ axes[axis])[0, 1]) > 0.98
    assert np.isnan(places[~known]).all()
    assert np.abs(places[known]).max() <= 1.2
    assert np.isnan(layout(np.empty((5, 0), np.float16), "pca")).all()


def test_explore_near_duplicates_are_those_of_brute_force() -> None:
    random = np.random.default_rng(1)
    base = random.normal(size=(60, SIZE))
    vectors = np.concatenate([base, base[:20] + random.normal(size=(20, SIZE)) * 0.01, base[:5] + 0.005])
    vectors[7] = np.nan
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = np.nan_to_num(unit @ unit.T) >= 0.99
    seen, expected = set[int](), list[list[int]]()
    for row in range(len(vectors)):  # a walk over the graph
        group, todo = set[int](), [row]
        while todo:
            one = todo.pop()
            if one not in group and one not in seen:
                group.add(one)
                todo += np.flatnonzero(near[one]).tolist()
        seen |= group
        if len(group) > 1:
            expected.append(sorted(group))
    found = groups(near_pairs(vectors), len(vectors), 0.99)
    assert sorted(sorted(rows.tolist()) for rows in found) == sorted(expected)
    assert [len(rows) for rows in found] == sorted((len(rows) for rows in found), reverse=True)


def test_explore_near_duplicates_by_cells_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 pictures in 40 cells: pairs of several distances, and one group of 120 copies that is larger than NEIGHBOURS."""
    random = np.random.default_rng(3)
    vectors = random.normal(size=(4000, 64))
    vectors[1000:1600] = vectors[:600] + random.normal(size=(600, 64)) * random.uniform(0, 0.3, 600)[:, None]
    vectors[3000:3120] = vectors[2999] + random.normal(size=(120, 64)) * 0.02
    vectors[3500] = np.nan
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = np.triu(np.nan_to_num(unit @ unit.T), 1)
    monkeypatch.setattr(duplicates, "EXACT_ROWS", 1000)
    monkeypatch.setattr(duplicates, "CELL_ROWS", 100)
    found = near_pairs(vectors.astype(np.float32))
    np.testing.assert_allclose(cosine[found.first, found.second], found.cosine, atol=1e-5)
    assert found.cosine.min() >= 0.9
    made = {tuple(sorted(rows.tolist())) for rows in groups(found, 4000, 0.95)}
    expected = {tuple(pair) for pair in np.argwhere(cosine >= 0.95).tolist() if max(pair) < 2999}
    assert tuple(range(2999, 3120)) in made
    assert made - {tuple(range(2999, 3120))} == expected
    monkeypatch.setattr(duplicates, "EXACT_ROWS", 4000)
    assert {tuple(sorted(rows.tolist())) for rows in groups(near_pairs(vectors), 4000, 0.95)} == made


def test_explore_clusters_are_named_after_their_words() -> None:
    random = np.random.default_rng(2)
    centres = np.eye(3, SIZE)
    kinds = np.repeat(np.arange(3), 50)
    vectors = centres[kinds] + random.normal(size=(150, SIZE)) * 0.02
    vectors[0] = np.nan
    words = ["the red flag waves", "a small kitten sleeps", "das große Gebirge im Winter"]
    numbers, centroids = clustered(vectors.astype(np.float32), 3)
    assert numbers[0] == NONE
    assert len(centroids) == 3
    for kind in range(3):
        assert len(set(numbers[1:][kinds[1:] == kind])) == 1
    named = cluster_words(pl.Series([words[kind] for kind in kinds]), numbers, 3)
    assert {frozenset(some) for some in named} == {
        frozenset(("flag", "red", "waves")),
        frozenset(("kitten", "sleeps", "small")),
        frozenset(("das", "gebirge", "große")),
    }
    assert cluster_names([["a", "b"], [], ["a", "b"]]) == ["a, b", "cluster 2", "a, b (2)"]


def test_explore_review_counts_what_select_counts(pool: PoolSource, tmp_path: Path) -> None:
    from datacomp_core.recipes.load import load_recipe
    from datacomp_core.selection.review import review

    recipe = load_recipe("{kind: all, filters: [{kind: words, at_least: 4}, {kind: top_fraction, score: l14, fraction: 0.3}]}")
    chosen = select(recipe, pool.metadata, out=Folder(str(tmp_path)), write="subset")
    made = review(recipe, pool)
    assert made.explanation == chosen.explanation
    kept = {f"{row:032x}" for row in np.flatnonzero(made.kept)}
    subset = np.load(tmp_path / "subset.npy")
    assert kept == {f"{high:016x}{low:016x}" for high, low in subset.tolist()}
    assert made.words[made.codes[0]] == "no text"
    part = review(recipe, pool, last=(1 << 62) - 1)
    drawn = [row for row in range(3 * ROWS) if lot_by_hand(f"{row:032x}") < 1 << 62]
    np.testing.assert_array_equal(part.codes, made.codes[drawn])
