"""Handles images that img2dataset stores incorrectly: more than 8 bits per channel, or rotated by their EXIF orientation.
OpenCV reads both without conversion. A value over 255 is clipped when it is stored as 8 bits, so that the image becomes nearly
white; an EXIF-rotated image is on its side (except a TIFF, which OpenCV and Pillow both rotate). The reference keeps them so;
`ImageSpec` can correct or drop them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import IO, Any, Literal

from datacomp_core.pictures import pillow_image

Treatment = Literal["as_reference", "correct", "drop"]
DEEP, TURNED = "deep", "turned"
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258
PNG_DEPTH = 24  # position of the bits per channel in a png's header
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*")
EXIF = b"Exif\0\0"
HEAD = 4096  # the EXIF of a jpeg, with the tags of its first directory, begins within these bytes
LARGEST_TIFF = 64 << 20
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def oddities(image: Any, stream: Any) -> tuple[bool, int]:
    """Return whether an opened image has more than 8 bits per channel, and its EXIF orientation (1: none, or decoders apply
    it)."""
    if image.format == "PNG":
        stream.seek(PNG_DEPTH)
        deep = stream.read(1) == b"\x10"
    else:
        bits = image.tag_v2.get(BITS_PER_SAMPLE, ()) if image.format == "TIFF" else ()
        deep = image.mode in DEEP_MODES or any(bit > 8 for bit in (bits if isinstance(bits, tuple) else (bits,)))
    if image.format == "TIFF":
        return deep, 1
    try:
        turned = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF rotates nothing
        turned = 1
    return deep, turned if 2 <= turned <= 8 else 1


def find_irregularities(file: IO[bytes], size: int) -> str:
    """Return the irregularities of an image in a file (`deep`, `turned` or both), from its header and without decoding it. A
    TIFF is read completely, because its tags may be anywhere. Otherwise png is checked for its depth and jpeg for its EXIF.
    """
    head = file.read(min(size, HEAD))
    if head.startswith(PNG):
        return DEEP if head[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10" else ""
    if head.startswith(JPEG):
        return TURNED if 2 <= _orientation(head) <= 8 else ""
    if head.startswith(TIFF) and size <= LARGEST_TIFF:
        stream = io.BytesIO(head + file.read(size - len(head)))
        try:
            with warnings.catch_warnings(action="ignore"), pillow_image(stream) as image:
                return DEEP if oddities(image, stream)[0] else ""
        except Exception:  # Pillow's readers raise a dozen exception types on bad bytes; the decoder reports it
            return ""
    return ""


def _orientation(head: bytes) -> int:
    """The orientation that the EXIF of a jpeg states; 1 if it states none."""
    from PIL import Image

    at = head.find(EXIF)
    if at < 0:
        return 1
    try:
        exif = Image.Exif()
        with warnings.catch_warnings(action="ignore"):
            exif.load(head[at:])
            return int(exif.get(ORIENTATION, 1))
    except Exception:  # a broken EXIF rotates nothing
        return 1


def corrected(stream: Any, *, deep: bool, orientation: int) -> Any:
    """Return the corrected image, losslessly, as a png; the stream itself if OpenCV cannot decode it."""
    import cv2
    import numpy as np

    stream.seek(0)
    pixels = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        return stream
    if deep and pixels.dtype != np.uint8:
        most = np.iinfo(str(pixels.dtype)).max if np.issubdtype(pixels.dtype, np.integer) else 1.0
        pixels = np.rint(np.nan_to_num(pixels.astype(np.float64)) / most * 255).clip(0, 255).astype(np.uint8)
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    return io.BytesIO(encoded.tobytes()) if done else stream


def turned_boxes(boxes: Any, orientation: int) -> Any:
    """Return boxes (left, top, right, bottom, shares of width and height) in the rotated image."""
    if not boxes or orientation == 1:
        return boxes
    return [_turned(box, orientation) for box in boxes]


def _turned(box: Sequence[float], orientation: int) -> list[float]:
    left, top, right, bottom = box
    if orientation in (5, 6, 7, 8):
        left, top, right, bottom = top, left, bottom, right
    if orientation in (3, 4, 7, 8):
        top, bottom = 1 - bottom, 1 - top
    if orientation in (2, 3, 6, 7):
        left, right = 1 - right, 1 - left
    return [left, top, right, bottom]
