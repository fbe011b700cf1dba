"""One device's part of the work: batches are decoded by processes, encoded by every model, and gathered into chunks.

Batches are cut by metadata row, never by shard or by who is done first, so the same bytes come out however the pool is
sharded and however many workers or devices there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from datacomp_core import clip
from datacomp_core.clip_sources import ModelSource
from datacomp_core.embedding.assemble import Chunk, EncoderColumn, Features, Filling, Sides, Span
from datacomp_core.embedding.decode import Decoded, RowBatch, Tokenizers, decode, slot_bytes
from datacomp_core.image_preprocessing import PixelArray
from datacomp_core.parallel import Processes
from datacomp_core.pictures import Decoding
from datacomp_core.pool_source import PoolSource
from datacomp_core.shared_pixels import Slot, Slots
from datacomp_core.store import Folder

IN_FLIGHT = 4  # batches whose features are not read yet: a GPU computes while we continue


class ImageLocations(Protocol):
    """Where the images of a chunk are."""

    def of(self, span: Span) -> pl.DataFrame:
        """`row` (counted from the part's first), `shard`, `offset`, `length` of at least the rows of a span, in order."""
        ...


@dataclass(frozen=True)
class EncodeWork:
    """The input of every device. `rows` are the parts that are not done, `step` the rows of a chunk."""

    models: tuple[ModelSource, ...]
    columns: tuple[EncoderColumn, ...]
    precision: clip.Precision
    batch_size: int
    metadata: Folder
    shards: Folder
    located: ImageLocations
    rows: dict[str, int]
    step: int
    workers: int
    decoding: Decoding = "full"


Done = Callable[[int, dict[str, int]], None]
Full = Callable[[Span, Chunk], None]


def encode(work: EncodeWork, device: str, chunks: Iterable[Span], full: Full, done: Done) -> None:
    """Encode chunks as `chunks` gives them, one after another without a pause; `full` takes each when it is whole.

    `done` is called for each batch: its rows, and how many of them had what.
    """
    encoding = Encoding(work, device, full, done)
    try:
        encoding.run(chunks)
    finally:
        encoding.close()


class Encoding:
    """The models of a device, the processes that decode for it, and the batches under way; for runs of chunks."""

    def __init__(self, work: EncodeWork, device: str, full: Full, done: Done) -> None:
        self.work, self.full, self.done = work, full, done
        self.models = [model.load(device) for model in work.models]
        self.cuda = device.startswith("cuda")
        self.pixels = tuple(dict.fromkeys(model.pixels for model in self.models))
        self.filling = Filling(work.columns, work.step, work.rows)
        self.flying: deque[tuple[RowBatch, Decoded, list[_Flying]]] = deque()
        self.text_stream = _stream(device)
        self.slots: Slots | None = None
        self.decoders: Processes[Tokenizers] | None = None
        if work.workers > 1:  # decoding processes hold 2 batches each at most, and IN_FLIGHT + 1 are here
            count = 2 * work.workers + IN_FLIGHT + 1
            self.slots = Slots(count, slot_bytes(self.pixels, work.batch_size), pinned=self.cuda)
            names = tuple({model.tokenizer for model in self.models} - {""}) if self.cuda else ()
            self.decoders = Processes(work.workers, partial(_tokenizers, names))

    def run(self, chunks: Iterable[Span]) -> None:
        for batch, decoded in self._decoded(self._batches(chunks)):
            self._launch(batch, decoded)
            if len(self.flying) >= IN_FLIGHT:
                self._land()
        while self.flying:
            self._land()

    def close(self) -> None:
        if self.decoders is not None:
            self.decoders.close()
        if self.slots is not None:
            self.slots.close()

    def _decoded(self, batches: Iterator[RowBatch]) -> Iterator[tuple[RowBatch, Decoded]]:
        if self.decoders is not None:
            return self.decoders.map(decode, batches)
        return ((batch, decode({}, batch)) for batch in batches)

    def _batches(self, chunks: Iterable[Span]) -> Iterator[RowBatch]:
        work, read = self.work, ""
        table = pl.DataFrame()
        for chunk in chunks:
            if chunk.part != read:
                table, read = PoolSource(work.metadata).read(chunk.part, ["text", "uid"]), chunk.part
            places = work.located.of(chunk)
            for start in range(chunk.start, chunk.stop, work.batch_size):
                stop = min(start + work.batch_size, chunk.stop)
                here = rows_between(places, start, stop)
                here = here.with_columns(table["uid"].gather(here["row"] + start))
                slot = self.slots.take() if self.slots is not None else None
                captions = tuple(table["text"].slice(start, stop - start))
                yield RowBatch(chunk.part, start, stop, captions, here, work.shards, self.pixels, slot, work.decoding)

    def _launch(self, batch: RowBatch, decoded: Decoded) -> None:
        """Start both towers of every model on a batch; on a GPU they run side by side and are not waited for."""
        pixels = decoded.of(batch) if decoded.rows else []
        flying: list[_Flying] = []
        for model, column in zip(self.models, self.work.columns, strict=True):
            mine = pixels[self.pixels.index(model.pixels)] if decoded.rows else None
            images, mirrored = self._images(model, mine), None
            if column.flip == "averaged":
                mirrored = self._images(model, None if mine is None else np.ascontiguousarray(mine[..., ::-1]))
            with self._beside():
                flying.append(_Flying(images, _Side(self._texts(model, batch, decoded)), mirrored))
        self.flying.append((batch, decoded, flying))

    def _images(self, model: clip.Clip, pixels: PixelArray | None) -> _Side:
        return _Side(None if pixels is None else model.encode_images(pixels, self.work.precision))

    def _texts(self, model: clip.Clip, batch: RowBatch, decoded: Decoded) -> Any:
        if not batch.captions:
            return None
        if model.tokenizer not in decoded.tokens:
            return model.encode_texts(batch.captions, self.work.precision)
        import torch

        return model.encode_tokens(torch.from_numpy(decoded.tokens[model.tokenizer]), self.work.precision)

    def _beside(self) -> Any:
        if self.text_stream is None:
            return nullcontext()
        import torch

        return torch.cuda.stream(self.text_stream)

    def _land(self) -> None:
        batch, decoded, flying = self.flying.popleft()
        size = batch.stop - batch.start
        captioned = [row for row, text in enumerate(batch.texts) if text is not None]
        sides = [
            Sides(
                one.images.rows(decoded.rows, size, column.dim),
                one.texts.rows(captioned, size, column.dim),
                one.mirrored.rows(decoded.rows, size, column.dim) if one.mirrored is not None else None,
            )
            for one, column in zip(flying, self.work.columns, strict=True)
        ]
        self._free(batch.slot)
        both = sorted(set(decoded.rows) & set(captioned))
        no_caption = len(decoded.rows) - len(both)  # of those that have a picture, so that each row is counted once
        tally = {"never_arrived": size - batch.located.height, "no_caption": no_caption, **decoded.failed}
        whole = self.filling.add(Span(batch.part, batch.start, batch.stop), sides, both, tally)
        if whole is not None:
            self.full(*whole)
        self.done(size, {"embedded": len(both), **{name: count for name, count in tally.items() if count}})

    def _free(self, slot: Slot | None) -> None:
        """The features were copied back, so nothing reads the pixels any more."""
        if slot is not None and self.slots is not None:
            self.slots.give_back(slot)


class _Side:
    """Features of one tower on their way back from the device, asked for when they were launched and waited for when needed."""

    def __init__(self, features: Any) -> None:
        self._features, self._event = features, None
        if features is not None and features.is_cuda:
            import torch

            self._features = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            self._features.copy_(features, non_blocking=True)
            self._event = torch.cuda.current_stream(features.device).record_event()

    def rows(self, rows: list[int], size: int, dim: int) -> Features:
        """Features (n, dim) of the rows `rows` among `size`, NaN elsewhere."""
        full = np.full((size, dim), np.nan, np.float32)
        if self._features is not None:
            if self._event is not None:
                self._event.synchronize()
            full[rows] = self._features.float().numpy()
        return full


class _Flying(NamedTuple):
    """The outputs of a model for a batch that are still being computed."""

    images: _Side
    texts: _Side
    mirrored: _Side | None


def _stream(device: str) -> Any:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.Stream(torch.device(device))


def _tokenizers(names: tuple[str, ...]) -> Tokenizers:
    return {name: clip.tokenizer_of(name) for name in names}


def rows_between(places: pl.DataFrame, start: int, stop: int) -> pl.DataFrame:
    """The places of rows from `start` to `stop`, their rows counted from `start`. `places` is in order of the rows."""
    rows = places["row"].to_numpy()
    first, last = np.searchsorted(rows, [start, stop]).tolist()
    return places.slice(first, last - first).with_columns(pl.col("row").cast(pl.Int64) - start)
