"""Measures the sharpness, brightness and information of an image from its pixels.

sharpness: the variance of the Laplacian of the grey picture (Pech-Pacheco et al. 2000), its longer side brought to 256 pixels if
it is longer; blurred pictures are low. brightness: the 99th percentile of perceived brightness, so a dark picture has no bright
spot. information: the entropy of the grey levels in bits (Shannon 1948), 0 for one colour, 8 at most. The measures are
those of CleanVision (blurry, dark, low information), each in its plain unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.scores.base import register
from datacomp_core.scores.image_scores import ImageScore

LONGEST = 256
PERCEIVED = np.array([0.241, 0.691, 0.068])


@register("picture_quality")
class PictureQuality(ImageScore):
    """Sharpness, brightness or information of a picture; low values are blurred, dark or empty ones."""

    paper = "Pech-Pacheco et al. 2000 (sharpness), Shannon 1948 (information); as CleanVision measures them"
    measure: Literal["sharpness", "brightness", "information"] = Field(
        default="sharpness",
        description="Variance of the Laplacian; 99th percentile of brightness, 0 to 1; entropy of grey levels, 0 to 8 bits.",
    )

    def of_samples(self, samples: Sequence[tuple[Any, str]], model: tuple[str, str] | None, device: str) -> list[float]:
        return [MEASURES[self.measure](image) for image, _ in samples]


def sharpness(image: Any) -> float:
    """The variance of the 4-neighbour Laplacian of grey levels, without the outermost pixels; 0 of what is smaller than 3 x 3."""
    from PIL import Image

    grey = image.convert("L")
    longest = max(grey.size)
    if longest > LONGEST:
        size = tuple(max(1, round(side * LONGEST / longest)) for side in grey.size)
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    levels: npt.NDArray[np.float64] = np.asarray(grey, np.float64)
    if min(levels.shape) < 3:
        return 0.0
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * levels[1:-1, 1:-1]).var())


def brightness(image: Any) -> float:
    """The 99th percentile of sqrt(0.241 R^2 + 0.691 G^2 + 0.068 B^2), 0 to 1."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return float(np.percentile(np.sqrt(pixels**2 @ PERCEIVED), 99))


def information(image: Any) -> float:
    """The entropy of the 256 grey levels, in bits."""
    counts = np.asarray(image.convert("L").histogram(), np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(shares * np.log2(shares)).sum()))


MEASURES: dict[str, Callable[[Any], float]] = {
    "sharpness": sharpness,
    "brightness": brightness,
    "information": information,
}
