"""Clusters of the sampled pictures, by spherical k-means (faiss), each named after words that its captions have more often.

A word's weight in a cluster is how many of its captions have it, times the log of how rare it is among all (class-based tf-idf).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.explore.layout import known_rows
from datacomp_core.vectors.files import unit
from datacomp_core.vectors.nearest import nearest

NONE = np.iinfo(np.uint16).max
"""The cluster of a sample that has no features."""
NUM_WORDS = 3
TRAINED_ON = 256
AT_ONCE = 1 << 16
LETTERS = r"[\p{L}\p{M}][\p{L}\p{M}'’-]+"
Numbers = npt.NDArray[np.uint16]


def num_clusters(num_rows: int) -> int:
    """A number of clusters that a person can look through: 8 to 128."""
    return int(np.clip(round(np.sqrt(num_rows) / 3), 8, 128))


def clustered(vectors: npt.NDArray[np.floating], count: int, *, seed: int = 0) -> tuple[Numbers, npt.NDArray[np.float32]]:
    """The cluster of each row (n,), NONE without features, and the centroids (k, d). The largest cluster comes first."""
    import faiss

    rows = known_rows(vectors)
    numbers = np.full(len(vectors), NONE, np.uint16)
    count = min(count, len(rows))
    if not count:
        return numbers, np.empty((0, vectors.shape[1]), np.float32)
    chosen = np.random.default_rng(seed).permutation(len(rows))[: TRAINED_ON * count]
    training = np.ascontiguousarray(vectors[np.sort(rows[chosen])], np.float32)
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=seed + 1, spherical=True, min_points_per_centroid=1)
    kmeans.train(training)
    centroids = unit(np.asarray(kmeans.centroids, np.float32))
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        numbers[some] = nearest(np.ascontiguousarray(vectors[some], np.float32), centroids)  # as the filter `image_clusters`
    sizes = np.bincount(numbers[rows], minlength=count)
    order = np.argsort(-sizes, kind="stable")
    renamed = np.empty(count, np.uint16)
    renamed[order] = np.arange(count, dtype=np.uint16)
    numbers[rows] = renamed[numbers[rows]]
    return numbers, centroids[order]


def cluster_words(texts: pl.Series, numbers: Numbers, count: int, most: int = NUM_WORDS) -> list[list[str]]:
    """The words of each cluster, the weightiest first; none for a cluster without captions."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    stop = pl.Series(sorted(ENGLISH_STOP_WORDS))
    words = (
        pl.LazyFrame({"cluster": numbers, "text": texts})
        .filter(pl.col("cluster") != NONE, pl.col("text").is_not_null())
        .with_columns(pl.col("text").str.head(300).str.to_lowercase().str.extract_all(LETTERS).list.unique().alias("word"))
        .select("cluster", "word")
        .explode("word")
        .drop_nulls()
        .filter(~pl.col("word").is_in(stop.implode()), pl.col("word").str.len_chars() > 2)
    )
    inside = words.group_by("cluster", "word").agg(pl.len().alias("captions"))
    scored = (
        inside.join(words.group_by("word").agg(pl.len().alias("all")), on="word")
        .filter(pl.col("captions") > 1)
        .with_columns((pl.col("captions") * (1 + pl.col("captions").sum().over("cluster") / pl.col("all")).log()).alias("weight"))
        .sort(["cluster", "weight", "word"], descending=[False, True, False])
        .group_by("cluster", maintain_order=True)
        .head(most)
        .collect(engine="streaming")
    )
    found: list[list[str]] = [[] for _ in range(count)]
    for cluster, word in scored.select("cluster", "word").iter_rows():
        found[cluster].append(word)
    return found


def cluster_names(words: Sequence[Sequence[str]]) -> list[str]:
    """A name for each, of its words; a second cluster of the same words gets a number."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for number, some in enumerate(words):
        name = ", ".join(some) or f"cluster {number + 1}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
