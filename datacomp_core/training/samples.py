"""Reads one training sample by its position in a shard: decode, crop, tokens, as in open_clip's webdataset pipeline. Pixels
stay uint8 until they are on the device; `normalised` is then bit-equal to open_clip's transform. Samples that fit `cache_bytes`
are kept decoded, because small sets are seen many times.
"""

from __future__ import annotations

import io
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.caption_policy import draw_caption
from datacomp_core.caption_sets import OVERLAY
from datacomp_core.errors import DataError
from datacomp_core.pictures import Decoding, open_picture, pillow_image, resized, rgb
from datacomp_core.sample_members import CAPTION, USUAL, json_object, names_of
from datacomp_core.shards import MEMBERS, parse_sample, read_index
from datacomp_core.store import Folder
from datacomp_core.training.cuda_decoding import encoded_size
from datacomp_core.training.sample_order import Floats, Ints
from datacomp_core.training.shard_cache import ShardCache

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]
Tokenizer = Callable[[list[str]], Any]

CROP_ATTEMPTS = 10
CROP_NUMBERS = 4 * CROP_ATTEMPTS
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)  # open_clip's and torchvision's defaults
OPEN_SHARDS = 128  # twice the lanes of an order: what is open is what is read now


class CaptionDraw(BaseModel):
    """How the caption of a sample is found, where it is not simply the sample's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, float] = Field(default_factory=dict, description="Weights of the sources. Empty: one caption per sample.")
    fields: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="The json fields of each source.")
    overlay: bool = Field(default=False, description="For a view: whether `captions/<shard>.parquet` is next to its index.")


class ShardSource(BaseModel):
    """One shard set as the loader sees it: where its tars and its index lie, and how many samples each shard has.

    Of a view each sample of a shard may lie in a tar of its own: the index says in which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    index: str = Field(description="Folder with `index/<shard>.parquet`: the shard set's own, or one made for this run.")
    weight: float = 1.0
    captions: CaptionDraw | None = Field(default=None, description="Where captions are drawn, or are not those in the tars.")
    shards: tuple[tuple[str, int], ...] = Field(description="Name and number of samples of each shard.")


class EncodedJpeg(NamedTuple):
    """A JPEG that the GPU is to decode; `size` is its width and height."""

    data: bytes
    size: tuple[int, int]


class TrainingSample(NamedTuple):
    image: Any
    tokens: Tokens


class _Kept(NamedTuple):
    """A decoded picture and its captions by source; the sample's own alone stands under no name."""

    image: Any
    captions: dict[str, list[str]]


class _Rows(NamedTuple):
    """The index of a shard: names of the tars it reads, and of each sample which of them, where, how long, and what it is."""

    tars: list[str]
    tar: Ints
    offsets: Ints
    lengths: Ints
    known: pl.DataFrame
    captions: pl.Series | None


class SampleReader:
    """Samples of several sources by (shard, row); shards are numbered through all sources. Picklable before first use."""

    def __init__(
        self,
        sources: tuple[ShardSource, ...],
        tokenize: Tokenizer,
        *,
        cache: str,
        cache_bytes: int,
        scaled_to: tuple[int, int] = (0, 0),
        decoding: Decoding = "full",
        jpeg_room: int = 0,
    ) -> None:
        """`scaled_to` (height, width): let libjpeg halve what stays larger than that; (0, 0): decode all of every image.
        `decoding` says whether samples have a Pillow image or, for the fast way, an array (height, width, 3). Ordinary JPEGs of
        at most `jpeg_room` bytes are given as they are."""
        self.shards = [(source, name) for source in sources for name, _ in source.shards]
        self.tokenize, self.copies, self.cache_bytes = tokenize, ShardCache(cache), cache_bytes
        self.scaled_to, self.decoding, self.jpeg_room = scaled_to, decoding, jpeg_room
        self._indexes: OrderedDict[int, _Rows] = OrderedDict()
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._tokens: dict[str, Tokens] = {}

    def __call__(self, shard: int, row: int, draw: Sequence[float] | Floats = (0.0, 0.0)) -> TrainingSample:
        """The decoded image (RGB) and its tokens; of several captions the one that the two numbers of `draw` choose.

        DataError names a sample that cannot be read.
        """
        kept = self._kept.get((shard, row))
        is_kept = kept is not None
        if kept is None:
            kept = self._read(shard, row)
            size = 3 * math.prod(size_of(kept.image)) + sum(len(text) for some in kept.captions.values() for text in some)
            if size <= self.cache_bytes:
                self.cache_bytes -= size
                self._kept[shard, row] = kept
                is_kept = True
        captions = self.shards[shard][0].captions
        chosen = draw_caption(captions.weights if captions and captions.weights else {"": 1.0}, kept.captions, list(draw))
        if chosen is None:
            raise DataError(
                f"Sample {row} of shard {self.shards[shard][1]} has none of the captions to draw from: reshard it again."
            )
        return TrainingSample(kept.image, self._tokenized(chosen[1], keep=is_kept))

    def _tokenized(self, text: str, *, keep: bool) -> Tokens:
        """Tokens are kept apart from pictures, a caption once, and only for samples that are kept."""
        found = self._tokens.get(text)
        if found is None:
            found = np.asarray(self.tokenize([text])[0])
            if keep and found.nbytes <= self.cache_bytes:
                self.cache_bytes -= found.nbytes
                self._tokens[text] = found
        return found

    def expect(self, shards: Iterable[int]) -> None:
        """Shards that will be read soon: remote ones are copied meanwhile."""
        for shard in shards:
            source, name = self.shards[shard]
            remote = not Folder(source.url).is_local and (source.url, name) not in self._open
            if remote and self._index(shard).tars == [name]:
                self.copies.fetch(source.url, name)

    def _read(self, shard: int, row: int) -> _Kept:
        source, name = self.shards[shard]
        rows = self._index(shard)
        tar, offset, length = rows.tars[rows.tar[row]], int(rows.offsets[row]), int(rows.lengths[row])
        data = self._bytes(source, tar, offset, length, whole=rows.tars == [name])
        try:
            uid, key, *named = rows.known.row(row)
            members = parse_sample(data, names_of((named or [""])[0] or ""), uid=uid, key=key)
            laid = rows.captions[row] if rows.captions is not None else None
            has_caption = laid is not None or CAPTION in members
            for name, what in ((USUAL.picture_of(members), "picture"), (CAPTION if has_caption else "", "caption")):
                if not name:
                    raise DataError(f"sample {key} has no {what}, but {', '.join(sorted(members))}")
            image = self._decoded(members[USUAL.picture_of(members)])
            captions = _laid_out(laid) if laid is not None else _captions(members, source.captions)
            if source.captions is not None and not source.captions.weights:
                captions = {"": next(iter(captions.values()))}
        except Exception as problem:  # Pillow's decoders raise a dozen kinds (NotImplementedError, struct.error, KeyError, ...)
            told = f"{type(problem).__name__}: {problem}".rstrip(": ")
            raise DataError(
                f"Sample {row} of shard {source.url}/{tar}.tar (byte {offset}) cannot be read ({told}): download or "
                "reshard it again, tolerate a share of such samples (tolerated_corrupt), or, if its members have other "
                "names, adopt the folder with --picture and --caption."
            ) from problem
        return _Kept(image, captions)

    def _decoded(self, data: bytes) -> Any:
        if self.jpeg_room and (encoded := encoded_size(data, self.jpeg_room)) is not None:
            return EncodedJpeg(data, encoded)
        if self.decoding == "fast":
            return rgb(data)
        if not all(self.scaled_to):
            return open_picture(data).convert("RGB")
        image = pillow_image(data)
        image.draft("RGB", smallest(image.size, self.scaled_to))
        return image.convert("RGB")

    def _index(self, shard: int) -> _Rows:
        found = self._indexes.get(shard)
        if found is not None:
            self._indexes.move_to_end(shard)
            return found
        if len(self._indexes) >= OPEN_SHARDS:
            self._indexes.popitem(last=False)
        source, name = self.shards[shard]
        rows = read_index(Folder(source.index), name)
        tars, tar = np.unique(rows["shard"].to_numpy(), return_inverse=True)
        known = rows.select("uid", "key", *([MEMBERS] if MEMBERS in rows.columns else []))
        laid = _overlay(Folder(source.index), name, rows.height) if source.captions and source.captions.overlay else None
        self._indexes[shard] = _Rows(tars.tolist(), tar, rows["offset"].to_numpy(), rows["length"].to_numpy(), known, laid)
        return self._indexes[shard]

    def _bytes(self, source: ShardSource, tar: str, offset: int, length: int, *, whole: bool) -> bytes:
        """A byte range of a tar, which is opened, and copied if it is remote; a remote one that a view only picks from is not."""
        if not whole and not Folder(source.url).is_local:
            return Folder(source.url).read_range(f"{tar}.tar", offset, offset + length)
        handle = self._open.get((source.url, tar))
        if handle is None:
            if len(self._open) >= OPEN_SHARDS:
                self._close()
            handle = self._open[source.url, tar] = self.copies.open(source.url, tar)
        else:
            self._open.move_to_end((source.url, tar))
        return os.pread(handle, length, offset)

    def _close(self) -> None:
        """Close the tar that was not read for longest; a local copy of a remote one goes with it."""
        (url, name), handle = self._open.popitem(last=False)
        os.close(handle)
        self.copies.drop(url, name)


def _captions(members: dict[str, bytes], draw: CaptionDraw | None) -> dict[str, list[str]]:
    """The captions of a sample by source: those in its json, or where it has none of them (it was mixed in) its own."""
    if draw is None or not draw.weights:
        return {"": [members[CAPTION].decode("utf-8")]}
    about = json_object(members.get("json", b"")) or {}
    found = {name: [about[field] for field in fields if _is_text(about.get(field))] for name, fields in draw.fields.items()}
    return found if any(found.values()) else {next(iter(draw.weights)): [members[CAPTION].decode("utf-8")]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _laid_out(laid: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in laid:
        found.setdefault(one["source"], []).append(one["text"])
    return found


def _overlay(folder: Folder, shard: str, rows: int) -> pl.Series:
    """The captions that a view has instead of those in the tars. DataError if they are of another index."""
    name = f"{OVERLAY}/{shard}.parquet"
    found = pl.read_parquet(io.BytesIO(folder.read(name)))["captions"]
    if len(found) != rows:
        raise DataError(f"{folder.at(name)} has {len(found)} rows, but the index of its shard has {rows}: make the view again.")
    return found


def smallest(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The least (width, height) of a decoded image whose smallest random crop is no smaller than `wanted` (height, width)."""
    least = max(wanted) / math.sqrt(SCALE[0] * RATIO[0])
    factor = min(1.0, least / min(size))
    return math.ceil(size[0] * factor), math.ceil(size[1] * factor)


def crop_box(width: int, height: int, numbers: Floats) -> tuple[int, int, int, int]:
    """left, top, right, bottom as torchvision's RandomResizedCrop draws them; `numbers`, shape (40,), replace its random ones."""
    area = width * height
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for a in range(0, CROP_NUMBERS, 4):
        target = area * (SCALE[0] + (SCALE[1] - SCALE[0]) * numbers[a])
        ratio = math.exp(low + (high - low) * numbers[a + 1])
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(numbers[a + 2] * (height - h + 1)), int(numbers[a + 3] * (width - w + 1))
            return left, top, left + w, top + h
    return _central(width, height)


def _central(width: int, height: int) -> tuple[int, int, int, int]:
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(w / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(h * RATIO[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def size_of(image: Any) -> tuple[int, int]:
    """Width and height of a Pillow image, of a JPEG that is not decoded, or of an array."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def augmented(image: Any, numbers: Floats, size: tuple[int, int]) -> Pixels:
    """Random crop, resized to `size` (height, width): uint8, shape (height, width, 3). An array is resized the fast way."""
    from PIL import Image

    box = crop_box(*size_of(image), numbers)
    if isinstance(image, np.ndarray):
        return resized(image, box, size)
    return np.asarray(image.crop(box).resize((size[1], size[0]), Image.Resampling.BICUBIC))
