"""Centroids: those of the reference's own code on the CPU, of the rows it would take, and the same again from the same seed."""

from __future__ import annotations

from pathlib import Path

import faiss
import feature_world as features
import filter_world as world
import numpy as np
import pytest

from datacomp_core.errors import DataError
from datacomp_core.pool_source import PoolSource
from datacomp_core.selection.kmeans import ClusterSpec, cluster, kmeans


def reference_kmeans(points: features.Rows, num: int, seed: int) -> features.Rows:
    """`train_kmeans` of baselines/image_based_clustering.py, with the index that faiss has on a CPU."""
    trained = faiss.Clustering(points.shape[1], num)
    trained.niter, trained.seed, trained.max_points_per_centroid = 20, seed, 10_000_000
    trained.train(points, faiss.IndexFlatL2(points.shape[1]))
    return faiss.vector_float_to_array(trained.centroids).reshape(num, points.shape[1])


def test_centroids_are_the_references_on_the_rows_it_takes(tmp_path: Path) -> None:
    table = world.rows(1, 300)
    for place, row in enumerate(table):
        row["text"] = ["a photo of a red dog on the beach", "der Hund im Garten und das Haus", "dog", None][place % 4]
    folder, images, _ = features.embedded(tmp_path / "m", table)
    found = cluster(ClusterSpec(num_clusters=5, seed=3), PoolSource(folder), workers=2)
    taken = [row for row in range(0, 300, 4) if np.isfinite(images[row, 0])]
    np.testing.assert_array_equal(found, reference_kmeans(images[taken], 5, 3))


def test_a_sample_is_a_share_of_every_part_and_comes_again(tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(2, 300))
    spec = ClusterSpec(num_clusters=4, captions="any", sample_ratio=0.4)
    first, again = (cluster(spec, PoolSource(folder)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = cluster(spec.model_copy(update={"seed": 1}), PoolSource(folder))
    assert not np.array_equal(first, other)
    assert np.isfinite(first).all()
    assert first.shape == (4, images.shape[1])


def test_well_parted_points_are_found() -> None:
    chance = np.random.default_rng(5)
    centres = chance.normal(size=(6, 8)).astype(np.float32) * 10
    points = (centres[np.arange(600) % 6] + 0.01 * chance.normal(size=(600, 8))).astype(np.float32)
    best = min(
        (np.abs(kmeans(points, 6, seed=seed)[:, None] - centres[None]).sum(2).min(0).max() for seed in range(8)), default=np.inf
    )
    assert best < 0.05


def test_too_few_points_and_no_features_are_told(tmp_path: Path) -> None:
    folder, _, _ = features.embedded(tmp_path / "m", world.rows(6, 30))
    with pytest.raises(DataError, match="There are only 27 points for 100 clusters"):
        cluster(ClusterSpec(num_clusters=100, captions="any"), PoolSource(folder))
    with pytest.raises(DataError, match="has no embeddings 'b32_img' .the npz files have l14_img, l14_txt"):
        cluster(ClusterSpec(num_clusters=2, features="b32"), PoolSource(folder))
