"""Computes the centroids of a pool's images with faiss' k-means. Reference: `baselines/image_based_clustering.py`, which made
the paper's.

As there: 20 rounds, every sampled point used, of captions in English with two tokens and six characters or more; 100,000
clusters, a sample of 1, 1, 0.3 and 0.03 at small to xlarge. The sample is drawn without repeats, by part, from a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Spec
from datacomp_core.device import default_device
from datacomp_core.driver_files import Exchange, exchange
from datacomp_core.errors import DataError
from datacomp_core.filters.characters import Characters
from datacomp_core.filters.language import Language
from datacomp_core.filters.tokens import Tokens
from datacomp_core.parallel import process_map
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.selection.view import asked_blocks
from datacomp_core.store import Folder
from datacomp_core.vectors.files import Vectors

EVERY_POINT = 10_000_000


class ClusterSpec(Spec):
    """Which centroids."""

    num_clusters: int = Field(default=100_000, ge=1, description="Centroids.")
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    sample_ratio: float = Field(default=1.0, gt=0, le=1, description="Share of each part's rows; all must fit in memory.")
    captions: Literal["english", "any"] = Field(default="english", description="english: the caption filter of image_based.")
    rounds: int = Field(default=20, ge=1, description="Rounds of k-means.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sample and of the first centroids.")


def cluster(
    spec: ClusterSpec, source: PoolSource, *, near: Folder | None = None, workers: int = 1, progress: Progress = NO_PROGRESS
) -> Vectors:
    """Centroids (num_clusters, d), float32; `near` as in `exchange`. DataError if there are fewer points than clusters."""
    names = source.parts()
    source.require_embeddings(names[0], f"{spec.features}_img")
    with exchange(near) as shared:
        sizes: dict[str, int] = {}
        progress.start(len(names), "parts sampled")
        for part, size in process_map(partial(_sample, spec, source, shared), names, workers=workers):
            sizes[part] = size
            progress.advance()
        points = _gathered(names, sizes, shared)
    if len(points) < spec.num_clusters:
        raise DataError(
            f"There are only {len(points):,} points for {spec.num_clusters:,} clusters: use fewer clusters, or sample more."
        )
    return kmeans(points, spec.num_clusters, rounds=spec.rounds, seed=spec.seed)


def _sample(spec: ClusterSpec, source: PoolSource, shared: Exchange, part: str) -> int:
    """Write a part's sampled features; how many."""
    asked = _captions(source, part) if spec.captions == "english" else np.ones(source.num_rows(part), np.bool_)
    if spec.sample_ratio < 1:
        chance = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{part}-{spec.seed}".encode()).digest()[:8], "big"))
        rows = np.flatnonzero(asked)
        asked = np.zeros_like(asked)
        asked[chance.choice(rows, int(len(rows) * spec.sample_ratio), replace=False)] = True
    blocks = [block for _, block in asked_blocks(source, part, f"{spec.features}_img", asked)]
    if not blocks:
        return 0
    points = np.concatenate(blocks)
    shared.save(f"{part}.npy", points)
    return len(points)


def _captions(source: PoolSource, part: str) -> npt.NDArray[np.bool_]:
    frame = source.read(part, ["text"])
    short = frame.select(Tokens().expression() & Characters().expression()).to_series().fill_null(False).to_numpy()
    asked = np.zeros(frame.height, np.bool_)
    asked[short] = Language().judge(frame.filter(pl.Series(short))).fill_null(False).to_numpy()
    return asked


def _gathered(names: Sequence[str], sizes: dict[str, int], shared: Exchange) -> Vectors:
    """All samples in order of part, one part at a time into the place it has."""
    total = sum(sizes.values())
    if not total:
        raise DataError("No row of the pool has both a caption and features to cluster: embed the pool first.")
    points: Vectors | None = None
    start = 0
    for part in names:
        if not sizes[part]:
            continue
        found = shared.load(f"{part}.npy")
        points = np.empty((total, found.shape[1]), np.float32) if points is None else points
        points[start : start + len(found)] = found
        start += len(found)
        shared.folder.remove(f"{part}.npy")
    assert points is not None, "samples were counted and not written"
    return points


def kmeans(points: Vectors, num: int, *, rounds: int = 20, seed: int = 0) -> Vectors:
    """faiss' k-means, with the reference's settings; on GPUs if faiss has them."""
    import faiss

    engine: Any = faiss
    clustering = engine.Clustering(points.shape[1], num)
    clustering.niter, clustering.seed, clustering.max_points_per_centroid = rounds, seed, EVERY_POINT
    index = engine.IndexFlatL2(points.shape[1])
    if default_device().startswith("cuda") and hasattr(engine, "index_cpu_to_all_gpus"):
        index = engine.index_cpu_to_all_gpus(index)
    clustering.train(points, index)
    return engine.vector_float_to_array(clustering.centroids).reshape(num, points.shape[1])
