"""Computes the perceptual hash of an image: 64 bits that change little when it is resized or compressed again (Zauner 2010,
pHash). The filter `distinct` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from datacomp_core.pictures import perceptual_hash
from datacomp_core.scores.base import register
from datacomp_core.scores.image_scores import ImageScore


@register("perceptual_hash")
class PerceptualHash(ImageScore):
    """64 bits of a picture, as a whole number."""

    paper = "Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions"
    dtype = pl.Int64

    def of_samples(self, samples: Sequence[tuple[Any, str]], model: tuple[str, str] | None, device: str) -> list[int]:
        return [hash_of(image) for image, _ in samples]


def hash_of(image: Any) -> int:
    """Return the 64 bits of a PIL image as a signed whole number."""
    return int.from_bytes(perceptual_hash(image), "big", signed=True)
