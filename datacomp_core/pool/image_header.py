"""Checks an image's header before anything decodes it: a limit on its pixels, and whether it is an image."""

from __future__ import annotations

from typing import Any, Protocol

from datacomp_core.library_patches import lift_pillows_cap
from datacomp_core.pictures import pillow_image
from datacomp_core.pool.odd_pictures import DEEP, TURNED, Treatment, corrected, oddities, turned_boxes


class Resize(Protocol):
    """img2dataset's resizer: (stream, boxes) -> (image, width, height, original width, original height, error)."""

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> tuple[Any, ...]: ...


class CheckedResizer:
    """A resizer that rejects too many pixels without decoding, and distinguishes a broken image from a non-image. OpenCV gets
    the same limit (OPENCV_IO_MAX_IMAGE_PIXELS) for formats whose header is not read here.
    """

    def __init__(
        self, resizer: Resize, max_pixels: int, *, deep: Treatment = "as_reference", turned: Treatment = "as_reference"
    ) -> None:
        lift_pillows_cap()  # our cap is the one that counts
        self.resizer, self.max_pixels = resizer, max_pixels
        self.deep, self.turned = deep, turned
        self.odd: tuple[str, ...] = ()  # what the last picture was, beside usual

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> tuple[Any, ...]:
        kind, pixels, deep, orientation = header(img_stream)
        self.odd = (*([DEEP] if deep else []), *([TURNED] if orientation > 1 else []))
        if pixels > self.max_pixels:
            return None, None, None, None, None, f"too many pixels: {pixels}"
        for is_odd, treatment, told in (
            (deep, self.deep, "more than 8 bits"),
            (orientation > 1, self.turned, "turned by its EXIF"),
        ):
            if is_odd and treatment == "drop":
                return None, None, None, None, None, f"picture refused: {told}"
        deep, orientation = deep and self.deep == "correct", orientation if self.turned == "correct" else 1
        if deep or orientation > 1:
            img_stream = corrected(img_stream, deep=deep, orientation=orientation)
            blurring_bbox_list = turned_boxes(blurring_bbox_list, orientation)
        img_stream.seek(0)
        made = self.resizer(img_stream, blurring_bbox_list)
        if made[5] and kind:
            return *made[:5], f"{made[5]} in {kind}" if "decoding" in made[5] else made[5]
        return made


def header(stream: Any) -> tuple[str, int, bool, int]:
    """Return format, pixels, whether it has more than 8 bits per channel, and EXIF orientation from an image's header. ("", 0,
    False, 1) for an unknown format.
    """
    stream.seek(0)
    try:
        with pillow_image(stream) as image:
            return image.format or "", image.width * image.height, *oddities(image, stream)
    except Exception:  # a hostile header may break a parser; OpenCV decides
        return "", 0, False, 1
