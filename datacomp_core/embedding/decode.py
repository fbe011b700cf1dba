"""From byte ranges in shards to pixels, in processes that need no torch. A corrupt image is a counted row, not a crash."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import polars as pl
from PIL import Image

from datacomp_core.clip import PixelArray, Pixels
from datacomp_core.shards import read_samples
from datacomp_core.store.folder import Folder

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Batch:
    """Rows `start` to `stop` of a part. `located` has the rows with an image: `row` (from `start`), shard, offset, length."""

    part: str
    start: int
    stop: int
    texts: tuple[str | None, ...]
    located: pl.DataFrame
    shards: Folder
    pixels: Pixels


@dataclass(frozen=True)
class Decoded:
    """Pixels (n, 3, height, width) of the rows `rows`, in row order, and how many could not be decoded, by reason."""

    rows: list[int]
    pixels: PixelArray
    failed: dict[str, int]


def decode(batch: Batch) -> Decoded:
    """Read and decode the images of a batch. DataError if a shard is missing or is not the one its index describes."""
    shape = (batch.located.height, 3, batch.pixels.height, batch.pixels.width)
    images = np.zeros(shape, np.uint8)
    good: list[tuple[int, int]] = []
    failed: dict[str, int] = {}
    place = 0
    for _, rows in batch.located.sort("shard", "offset", "row").group_by("shard", maintain_order=True):
        for row, (_, members) in zip(rows["row"].to_list(), read_samples(batch.shards, rows), strict=True):
            reason = _into(images[place], members, batch.pixels)
            if reason:
                failed[reason] = failed.get(reason, 0) + 1
            else:
                good.append((row, place))
                place += 1
    good.sort()
    return Decoded([row for row, _ in good], images[[place for _, place in good]], failed)


def _into(target: PixelArray, members: dict[str, bytes], pixels: Pixels) -> str:
    """Decode a sample's image into `target`; why not, if that is impossible."""
    data = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    if data is None:
        return "no_image_member"
    try:
        with Image.open(io.BytesIO(data)) as image:
            target[:] = pixels(image)
    except Exception:  # Pillow's decoders raise a dozen kinds (OSError, SyntaxError, struct.error, ...) on bad bytes
        target[:] = 0
        return "corrupt_image"
    return ""
