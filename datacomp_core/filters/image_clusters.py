"""Keeps images near a target set. Reference: `image_based` (`get_centroid_ids_gpu` and `image_filter_helper`).

A pool's images are clustered (k-means, `datacomp cluster`); an image is kept if images of the target set fall into its
cluster. The paper's target is ImageNet-1k's training set under CLIP L/14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from datacomp_core.filters.base import FeatureFilter, Mask, register
from datacomp_core.input_classes import InputUse
from datacomp_core.vectors.files import Vectors, VectorsName, matched, target_use, vectors
from datacomp_core.vectors.nearest import nearest


@register("image_clusters")
class ImageClusters(FeatureFilter):
    """Keeps images whose nearest centroid is the nearest of some image of a target set."""

    centroids: VectorsName = Field(
        default="small_centroids_l14",
        description="k-means centroids of the pool: a released set, or a file of `datacomp cluster`.",
    )
    target: VectorsName = Field(default="imagenet1k_l14", description="Embeddings of the target set: a released set, or a file.")
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )

    @classmethod
    def uses(cls, given: Mapping[str, Any]) -> Iterator[InputUse]:
        yield from super().uses(given)
        yield from target_use(given.get("target", cls.model_fields["target"].default))

    def feature_key(self) -> str:
        return f"{self.features}_img"

    def title(self) -> str:
        return f"image in a cluster of {_short(self.target)}"

    def reason(self) -> str:
        return f"image in no cluster of {_short(self.target)}"

    def prepare(self) -> Mask:
        """Which clusters the target falls into, shape (clusters,)."""
        there = vectors(self.centroids)
        wanted = np.zeros(len(there), np.bool_)
        wanted[nearest(matched(self.target, there.shape[1]), there)] = True
        return wanted

    def judge_features(self, blocks: Iterator[Vectors], prepared: Mask) -> pl.Series:
        found: list[Mask] = [np.empty(0, np.bool_)]
        for block in blocks:
            found.append(prepared[nearest(block, matched(self.centroids, block.shape[1]))])
        return pl.Series(np.concatenate(found))


def _short(name: str) -> str:
    return name.partition("#")[0].rstrip("/").rpartition("/")[2] or name
