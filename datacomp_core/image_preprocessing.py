"""Resizes and crops a picture as open_clip's transform does, without torch, so that light processes can do it. The device
normalises (`clip.Clip.encode_images`). Both halves together are bit-equal to open_clip's transform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.pictures import Decoding, resized

PixelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pixels:
    """PIL image to uint8 pixels, shape (3, height, width): open_clip's resize, centre crop and conversion to RGB, in that order.

    As in open_clip, the image keeps its mode until it is cropped: converting first would change the pixels. `decoding` fast:
    images that are RGB are resized with torch.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    decoding: Decoding = field(default="full", repr=False)

    def __post_init__(self) -> None:
        given: dict[str, tuple[Any, ...]] = {"mean": self.mean, "std": self.std}
        for name, values in given.items():
            numbers = [isinstance(value, int | float) and math.isfinite(value) for value in values]
            if numbers != [True] * 3 or (name == "std" and min(values) <= 0):
                wanted = "three finite numbers" + (" above 0" if name == "std" else "")
                raise DataError(
                    f"The model's preprocessing has the {name} {', '.join(map(str, values))}, but needs {wanted}: correct it."
                )

    def __call__(self, image: Any) -> PixelArray:
        if self.decoding == "fast" and image.mode == "RGB":
            return self.fast(np.asarray(image))
        image = self._cropped(self._resized(image))
        if image.mode != "RGB":
            image = image.convert("RGB")
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def fast(self, pixels: PixelArray) -> PixelArray:
        """The same for RGB pixels (height, width, 3), resized with torch: equal up to rounding."""
        high, wide = pixels.shape[:2]
        wanted_wide, wanted_high = self._wanted(wide, high)
        made = resized(pixels, (0, 0, wide, high), (wanted_high, wanted_wide), self._filter)
        top, left = round((wanted_high - self.height) / 2.0), round((wanted_wide - self.width) / 2.0)
        return made[top : top + self.height, left : left + self.width].transpose(2, 0, 1)

    @property
    def _filter(self) -> Literal["bilinear", "bicubic"]:
        return "bilinear" if self.interpolation == "bilinear" else "bicubic"

    def _wanted(self, wide: int, high: int) -> tuple[int, int]:
        """Width and height before the crop."""
        if self.resize_mode != "shortest":
            return self.width, self.height
        side = self.width
        return (side, int(side * high / wide)) if wide <= high else (int(side * wide / high), side)

    def _resized(self, image: Any) -> Any:
        from PIL import Image

        wanted = self._wanted(*image.size)
        if image.size == wanted:
            return image
        return image.resize(wanted, Image.Resampling[self._filter.upper()])

    def _cropped(self, image: Any) -> Any:
        wide, high = image.size
        if (wide, high) == (self.width, self.height):
            return image
        top, left = round((high - self.height) / 2.0), round((wide - self.width) / 2.0)
        return image.crop((left, top, left + self.width, top + self.height))
