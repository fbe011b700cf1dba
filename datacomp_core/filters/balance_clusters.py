"""Image-based sampling: draws that balance the clusters of images. Source: Gadre et al. 2023, DataComp
(arXiv:2304.14108), appendix: a cluster of s images is drawn in proportion to s^alpha, its images evenly; alpha = 0.2 did best.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from datacomp_core.filters.balanced_draw import BalancedDraw, RowConcepts
from datacomp_core.filters.base import GlobalView, register
from datacomp_core.vectors.files import VectorsName, matched
from datacomp_core.vectors.nearest import nearest


@register("balance_clusters")
class BalanceClusters(BalancedDraw):
    """Draws with repeats, with images of small clusters more often. It must be the outermost filter."""

    centroids: VectorsName = Field(
        default="small_centroids_l14", description="k-means centroids: a released set, or a file of `datacomp cluster`."
    )
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )

    def columns(self) -> frozenset[str]:
        return frozenset()

    def concepts(self, view: GlobalView, part: str) -> RowConcepts:
        rows, clusters = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for places, block in view.blocks(part, f"{self.features}_img"):
            rows.append(places)
            clusters.append(nearest(block, matched(self.centroids, block.shape[1])))
        known = np.concatenate(rows)
        return RowConcepts(known, np.concatenate(clusters), np.setdiff1d(np.flatnonzero(view.reached(part)), known))
