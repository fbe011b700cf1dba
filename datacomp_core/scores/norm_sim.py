"""Scores how near an image is to a target set. Source: Wang et al. 2024 (arXiv:2405.19547), NormSim; with p = 2 it ranks as VAS
does (Wang et al. 2024, arXiv:2402.02055). The paper's targets are the training sets of the evaluation tasks, ImageNet-1k above
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.input_classes import InputUse
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Score, register
from datacomp_core.vectors.files import Vectors, VectorsName, matched, target_use, unit
from datacomp_core.vectors.nearest import nearest


@register("norm_sim")
class NormSim(Score):
    """|| F G' ||_p of an image's embedding F and the target's G, all of length 1: p = inf is the largest cosine."""

    paper = "Wang et al. 2024, NormSim (arXiv:2405.19547); p = 2: VAS (arXiv:2402.02055)"
    needs = frozenset({"features"})
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    target: VectorsName = Field(default="imagenet1k_l14", description="Embeddings of the target set: a released set, or a file.")
    p: Literal["inf", "2"] = Field(default="inf", description="Which norm.")

    @classmethod
    def uses(cls, given: Mapping[str, Any]) -> Iterator[InputUse]:
        yield from super().uses(given)
        yield from target_use(given.get("target", cls.model_fields["target"].default))

    def feature_keys(self) -> tuple[str, ...]:
        return (f"{self.features}_img",)

    def of_part(self, source: PoolSource, part: str, prepared: Any) -> npt.NDArray[np.float32]:
        found = [np.empty(0, np.float32)]
        for block in source.embeddings(part, self.feature_keys()[0]):
            scores = np.full(len(block), np.nan, np.float32)
            known = np.isfinite(block).all(axis=1)
            scores[known] = self._of_block(unit(block[known]))
            found.append(scores)
        return np.concatenate(found)

    def _of_block(self, images: Vectors) -> npt.NDArray[np.float64]:
        if self.p == "inf":
            target = _target(self.target, images.shape[1])
            best = target[nearest(images, target)]
            return np.einsum("nd,nd->n", images, best, dtype=np.float64)
        moments = _moments(self.target, images.shape[1])
        return np.sqrt(np.maximum(np.einsum("nd,nd->n", images.astype(np.float64) @ moments, images), 0))


@cache
def _target(name: str, dimensions: int) -> Vectors:
    return unit(matched(name, dimensions))


@cache
def _moments(name: str, dimensions: int) -> npt.NDArray[np.float64]:
    """G' G: the norm of all products at the cost of one small matrix."""
    target = _target(name, dimensions).astype(np.float64)
    return target.T @ target
