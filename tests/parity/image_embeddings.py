"""Embeddings for the dirty metadata, and a target set and centroids to compare them with: what image_based reads, seeded.

Half-precision rows around directions of their own, some of them equal, some between two centroids, one centroid twice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

DIMENSIONS, CENTROIDS, TARGETS = 48, 60, 50
Rows = npt.NDArray[np.float32]


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _draw(seed: int, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).integers(-1000, 1001, shape) / 1000


def centroids() -> Rows:
    """Of length about 1, as k-means leaves them; the last one is the first again."""
    found = _unit(_draw(1, (CENTROIDS, DIMENSIONS))) * 0.93
    found[-1] = found[0]
    return found.astype(np.float32)


def target(number: int) -> npt.NDArray[np.float16]:
    """One of the five files of the target set: near the first third of the centroids."""
    chosen = np.random.default_rng(10 + number).integers(0, CENTROIDS // 3, TARGETS // 5)
    return _unit(centroids()[chosen] + 0.2 * _draw(20 + number, (len(chosen), DIMENSIONS))).astype(np.float16)


def write(metadata: Path) -> str:
    """Put an npz beside every parquet of a folder; the hash of all that was written."""
    digest = hashlib.sha256()
    for place, path in enumerate(sorted(metadata.glob("*.parquet"))):
        size = pl.scan_parquet(path).select(pl.len()).collect().item()
        chosen = np.random.default_rng(30 + place).integers(0, CENTROIDS, (size, 2))
        there = centroids().astype(np.float64)
        mixed = there[chosen[:, 0]] + 0.9 * there[chosen[:, 1]] * (np.arange(size) % 3 == 0)[:, None]
        images = _unit(mixed + 0.6 * _draw(40 + place, (size, DIMENSIONS))).astype(np.float16)
        images[5] = images[4]
        np.savez(path.with_suffix(".npz"), l14_img=images, l14_txt=images[::-1])
        digest.update(images.tobytes())
    for rows in (centroids(), *(target(number) for number in range(5))):
        digest.update(rows.tobytes())
    return digest.hexdigest()
