"""Look at an image's header before anything decodes it: a cap on its pixels, and whether it is an image at all."""

from __future__ import annotations

from typing import Any, Protocol

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "AVIF")


class Resize(Protocol):
    """img2dataset's resizer: (stream, boxes) -> (image, width, height, original width, original height, error)."""

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> tuple[Any, ...]: ...


class CheckedResizer:
    """A resizer that refuses too many pixels unread, and tells a broken image from what is none.

    OpenCV is told the same cap (OPENCV_IO_MAX_IMAGE_PIXELS), for formats whose header nobody else reads.
    """

    def __init__(self, resizer: Resize, max_pixels: int) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # our cap is the one that counts
        self.resizer, self.max_pixels = resizer, max_pixels

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> tuple[Any, ...]:
        kind, pixels = header(img_stream)
        if pixels > self.max_pixels:
            return None, None, None, None, None, f"too many pixels: {pixels}"
        img_stream.seek(0)
        made = self.resizer(img_stream, blurring_bbox_list)
        if made[5] and kind:
            return *made[:5], f"{made[5]} in {kind}" if "decoding" in made[5] else made[5]
        return made


def header(stream: Any) -> tuple[str, int]:
    """Format and number of pixels that an image's header states; ("", 0) if it is none that we know."""
    from PIL import Image

    stream.seek(0)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            return image.format or "", image.width * image.height
    except Exception:  # whatever a hostile header does to a parser, OpenCV has the last word
        return "", 0
