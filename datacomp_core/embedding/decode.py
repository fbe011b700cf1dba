"""From byte ranges in shards to pixels, in processes that need no torch. A corrupt image is a counted row, not a crash.

An image is decoded once and resized for every encoder. On a GPU's machine captions become tokens here too: the process that
feeds the GPU has no time for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.image_preprocessing import PixelArray, Pixels
from datacomp_core.pictures import Decoding, open_picture
from datacomp_core.sample_members import USUAL, picture_in
from datacomp_core.shards import read_members
from datacomp_core.shared_pixels import Slot
from datacomp_core.store.folder import Folder

Tokens = npt.NDArray[np.int64]
Tokenizers = dict[str, Callable[[list[str]], Any]]


@dataclass(frozen=True)
class RowBatch:
    """Rows `start` to `stop` of a part. `located` has the rows with an image: `row` (from `start`), shard, offset, length, uid.

    `pixels` are the distinct transforms of the encoders; their results go into `slot`, if there is one.
    """

    part: str
    start: int
    stop: int
    texts: tuple[str | None, ...]
    located: pl.DataFrame
    shards: Folder
    pixels: tuple[Pixels, ...]
    slot: Slot | None = None
    decoding: Decoding = "full"

    @property
    def captions(self) -> list[str]:
        return [text for text in self.texts if text is not None]

    def arrays(self) -> list[PixelArray]:
        """One array (n, 3, height, width) a transform, n the rows with an image."""
        shapes = [(self.located.height, 3, pixels.height, pixels.width) for pixels in self.pixels]
        if self.slot is None:
            return [np.empty(shape, np.uint8) for shape in shapes]
        starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]).tolist()
        return [self.slot.array(shape, start) for shape, start in zip(shapes, starts, strict=False)]


@dataclass(frozen=True)
class Decoded:
    """The rows with pixels, in order; why others have none; the pixels, unless they are in the slot; tokens by tokenizer.

    Pixels stand at `places` of the batch's arrays.
    """

    rows: list[int]
    places: list[int]
    failed: dict[str, int]
    pixels: list[PixelArray] | None
    tokens: dict[str, Tokens]

    def of(self, batch: RowBatch) -> list[PixelArray]:
        """The pixels of `rows`, (n, 3, height, width) a transform."""
        arrays = batch.arrays() if self.pixels is None else self.pixels
        whole = len(self.places) == batch.located.height
        return arrays if whole else [array[self.places] for array in arrays]


def slot_bytes(pixels: tuple[Pixels, ...], batch_size: int) -> int:
    return batch_size * sum(3 * one.height * one.width for one in pixels)


def decode(tokenizers: Tokenizers, batch: RowBatch) -> Decoded:
    """Read and decode the images of a batch. DataError if a shard is missing or is not the one its index describes."""
    arrays = batch.arrays()
    located = batch.located.with_row_index("place")
    reasons: dict[int, str] = {}
    for _, rows in located.sort("shard", "offset", "row").group_by("shard", maintain_order=True):
        for place, members in zip(rows["place"].to_list(), read_members(batch.shards, rows), strict=True):
            reason = _into([array[place] for array in arrays], members, batch)
            if reason:
                reasons[place] = reason
    places = [place for place in range(located.height) if place not in reasons]
    rows = located["row"].to_list()
    failed: dict[str, int] = {}
    for reason in reasons.values():
        failed[reason] = failed.get(reason, 0) + 1
    return Decoded(
        [rows[place] for place in places],
        places,
        failed,
        None if batch.slot else arrays,
        {name: np.asarray(tokenize(batch.captions)) for name, tokenize in tokenizers.items() if batch.captions},
    )


def _into(targets: list[PixelArray], members: dict[str, bytes], batch: RowBatch) -> str:
    """Decode a sample's image into `targets`; why not, if that is impossible."""
    data = picture_in(members)
    if not USUAL.picture_of(members):
        return "no_image_member"
    try:
        with open_picture(data) as image:
            rows = np.asarray(image) if batch.decoding == "fast" and image.mode == "RGB" else None
            for target, transform in zip(targets, batch.pixels, strict=True):
                target[:] = transform(image) if rows is None else transform.fast(rows)
    except Exception:  # Pillow's decoders raise a dozen kinds (OSError, SyntaxError, struct.error, ...) on bad bytes
        return "corrupt_image"
    return ""
