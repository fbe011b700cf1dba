"""Reads the training data: batches that are a pure function of the step, from a saved position on. `open_clip_train.data`
shuffles by pid and time, restarts at every epoch, skips what it cannot read and never ends when nothing can be read; none of
its code is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from datacomp_core.errors import DataError
from datacomp_core.training.cuda_decoding import ABOUT, decode_on_gpu, keep_encoded
from datacomp_core.training.loader import load_micro_batches
from datacomp_core.training.prefetch import MicroBatch, prefetched
from datacomp_core.training.sample_order import Floats, Ints, SampleOrder
from datacomp_core.training.samples import (
    CROP_NUMBERS,
    EncodedJpeg,
    Pixels,
    SampleReader,
    Tokens,
    TrainingSample,
    augmented,
    crop_box,
)

if TYPE_CHECKING:
    import torch

EXPECTED_STEPS = 32  # how early a remote shard is copied: a lane reads one for more than a hundred steps


@dataclass(frozen=True)
class BatchSlice:
    """Which part of every global batch is this process's, and in how many micro-batches it takes it."""

    rank: int
    world_size: int
    accumulation: int

    def part(self, batch_size: int, piece: int) -> tuple[int, int]:
        size = batch_size // (self.world_size * self.accumulation)
        start = (self.rank * self.accumulation + piece) * size
        return start, start + size


class MicroBatchDataset:
    """Micro-batch number to micro-batch, in this process or, in pieces, in others (`loader`)."""

    def __init__(
        self, order: SampleOrder, reader: SampleReader, mine: BatchSlice, size: tuple[int, int], *, tolerant: bool
    ) -> None:
        self.order, self.reader, self.mine, self.size, self.tolerant = order, reader, mine, size, tolerant
        self._remote = any("://" in source.url for source, _ in reader.shards)

    @property
    def count(self) -> int:
        """Samples of a micro-batch."""
        start, stop = self.mine.part(self.order.batch_size, 0)
        return stop - start

    @cached_property
    def context(self) -> int:
        """Tokens of a sample."""
        return int(np.asarray(self.reader.tokenize([""])).shape[1])

    def __getitem__(self, number: int) -> MicroBatch:
        """Return a micro-batch in newly allocated memory."""
        import torch

        pixels = np.empty((self.count, 3, *self.size), np.uint8)
        tokens = np.empty((self.count, self.context), np.int64)
        about = np.zeros((self.count, ABOUT), np.int64)
        unreadable = self.fill(number, 0, pixels, tokens, about)
        return self.micro(torch.from_numpy(pixels), torch.from_numpy(tokens), torch.from_numpy(about), unreadable)

    def micro(self, pixels: torch.Tensor, tokens: torch.Tensor, about: torch.Tensor, unreadable: tuple[str, ...]) -> MicroBatch:
        return MicroBatch(pixels, tokens, unreadable, about if self.reader.jpeg_room else None)

    def fill(self, number: int, begin: int, pixels: Pixels, tokens: Tokens, about: Ints) -> tuple[str, ...]:
        """Write a run of samples of a micro-batch, from its sample `begin` on: pixels (n, 3, h, w) and tokens (n, context).

        What is left to the GPU is written as it is, and `about` (n, 5) says of each sample what it is. Returns the names of the
        unreadable samples that others replace.
        """
        step, piece = divmod(number, self.mine.accumulation)
        start = self.mine.part(self.order.batch_size, piece)[0] + begin
        stop = start + len(pixels)
        shards, rows = self.order.batch(step, start, stop)
        if self._remote:
            self.reader.expect(self.order.shards(step + EXPECTED_STEPS, start, stop))
        numbers = self.order.crops(step, start, stop, CROP_NUMBERS)
        draws = self.order.captions(step, start, stop)
        unreadable: list[str] = []
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            sample, skipped = self._readable(shard, row, draws[place])
            unreadable += [f"{self.reader.shards[shard][1]}:{row}"] if skipped else []
            tokens[place], image = sample.tokens, sample.image
            if isinstance(image, EncodedJpeg):
                keep_encoded(image.data, crop_box(*image.size, numbers[place]), pixels[place], about[place])
            else:
                pixels[place], about[place] = augmented(image, numbers[place], self.size).transpose(2, 0, 1), 0
        return tuple(unreadable)

    def _readable(self, shard: int, row: int, draw: Floats) -> tuple[TrainingSample, int]:
        """A sample, or the next readable one of its shard and how many had to be skipped for it."""
        size = int(self.order.sizes[shard])
        for skipped in range(size):
            try:
                return self.reader(shard, (row + skipped) % size, draw), skipped
            except DataError:
                if not self.tolerant:
                    raise
        raise DataError(f"No sample of shard {self.reader.shards[shard][1]} can be read: download or reshard it again.")


class MicroBatchStream:
    """The iterator of the training loop: the micro-batches of successive epochs, from a saved position.

    One loader runs through all epochs, so nothing is dropped or waited for between them. On a GPU the next micro-batch is
    copied while the present one is computed (`prefetched`).
    """

    def __init__(
        self,
        batches: MicroBatchDataset,
        *,
        steps_per_epoch: int,
        epochs: int,
        first: int,
        workers: int,
        device: Any,
        ahead: int = 0,
    ) -> None:
        """`first` is the optimizer step to begin with, counted from the start of the run."""
        accumulation = batches.mine.accumulation
        self.num_batches = steps_per_epoch * accumulation
        self.next = first * accumulation  # the micro-batch to come, counted from the start of the run
        self.device = device
        self.waited = 0.0  # seconds in which the loop had nothing to do
        self.on_unreadable: Callable[[int, tuple[str, ...]], None] = _nothing
        self._total = self.num_batches * epochs
        self._batches, self._workers, self._ahead = batches, workers, ahead
        self._stream: Iterator[MicroBatch] | None = None
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None

    def normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        import torch

        self._scale = tuple(torch.tensor(v, device=self.device).view(-1, 1, 1) for v in (mean, std))  # pyright: ignore

    @property
    def step(self) -> int:
        """Optimizer steps that are done, counted from the start of the run."""
        return self.next // self._batches.mine.accumulation

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self._stream is None:
            self._stream = self._loaded()
            if self._ahead:
                self._stream = prefetched(self._stream, self.device, self._ahead)
        for _ in range(self.num_batches - self.next % self.num_batches):
            began = time.monotonic()
            micro = decode_on_gpu(next(self._stream), self.device)
            self.waited += time.monotonic() - began
            if micro.unreadable:
                self.on_unreadable(self.step, micro.unreadable)
            self.next += 1
            yield self.normalised(micro.pixels.to(self.device)), micro.tokens.to(self.device, copy=True)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        assert self._scale is not None
        mean, std = self._scale
        return pixels.float().div_(255).sub_(mean).div_(std)

    def _loaded(self) -> Iterator[MicroBatch]:
        numbers = range(self.next, self._total)
        if not self._workers:
            return (self._batches[number] for number in numbers)
        return load_micro_batches(self._batches, numbers, self._workers, pinned=getattr(self.device, "type", "cpu") == "cuda")


def _nothing(step: int, names: tuple[str, ...]) -> None:
    return


def order_of(seed: int, batch_size: int, sizes: list[int], weights: list[float]) -> SampleOrder:
    counts: Ints = np.array(sizes, np.int64)
    return SampleOrder(seed, batch_size, counts, np.array(weights, np.float64))
