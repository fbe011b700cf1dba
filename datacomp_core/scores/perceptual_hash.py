"""The perceptual hash of an image: 64 bits that change little when it is resized or compressed again (Zauner 2010, pHash).

As the package ImageHash computes `phash`: 32 x 32 grey pixels, a cosine transform, its 8 x 8 lowest frequencies against their
median. `distinct` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from datacomp_core.scores.base import register
from datacomp_core.scores.image_scores import ImageScore

SIDE, LOW = 32, 8


@register("perceptual_hash")
class PerceptualHash(ImageScore):
    """64 bits of a picture, as a whole number."""

    paper = "Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions"
    dtype = pl.Int64

    def of_samples(self, samples: Sequence[tuple[Any, str]], model: tuple[str, str] | None, device: str) -> list[int]:
        return [hash_of(image) for image, _ in samples]


def hash_of(image: Any) -> int:
    """The 64 bits of a PIL image, row by row with the first one highest, as a signed whole number."""
    import scipy.fft
    from PIL import Image

    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    waves: Any = scipy.fft.dct(scipy.fft.dct(pixels, axis=0), axis=1)
    low = waves[:LOW, :LOW]
    bits = np.packbits((low > np.median(low)).ravel())
    return int.from_bytes(bits.tobytes(), "big", signed=True)
