"""Loads micro-batches with processes that decode straight into them: pixels and tokens of a micro-batch lie in one slot of shared
memory, which CUDA copies from. A batch is written once, by several processes at a time, and never pickled or copied again.

Which process decodes what is left to chance, and changes no bit. What a process raises is raised in the micro-batch's turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datacomp_core.errors import LostProcessError
from datacomp_core.interruptible_wait import wait_for_first
from datacomp_core.parallel import Processes
from datacomp_core.shared_pixels import Slot, Slots
from datacomp_core.training.cuda_decoding import ABOUT
from datacomp_core.training.prefetch import MicroBatch
from datacomp_core.training.sample_order import Ints
from datacomp_core.training.samples import Pixels, Tokens

if TYPE_CHECKING:
    from datacomp_core.training.data import MicroBatchDataset

PIECE = 128  # samples that a process decodes at a time
PIECES_A_PROCESS = 2  # under way or waiting
ALIGNED = 64
INTEGER = 8  # bytes of a token


@dataclass(frozen=True)
class BatchLayout:
    """Where tokens (n, context), what is known of each sample (n, 5) and pixels (n, 3, height, width) lie in a slot."""

    count: int
    context: int
    size: tuple[int, int]

    @property
    def number_bytes(self) -> int:
        return _aligned(self.count * (self.context + ABOUT) * INTEGER)

    @property
    def slot_bytes(self) -> int:
        return self.number_bytes + _aligned(self.count * 3 * self.size[0] * self.size[1])

    def arrays(self, slot: Slot) -> tuple[Pixels, Tokens, Ints]:
        numbers = slot.array((self.count * (self.context + ABOUT) * INTEGER,)).view(np.int64)
        tokens, about = numbers[: self.count * self.context], numbers[self.count * self.context :]
        pixels = slot.array((self.count, 3, *self.size), self.number_bytes)
        return pixels, tokens.reshape(self.count, self.context), about.reshape(self.count, ABOUT)


class Piece(NamedTuple):
    """Samples `begin` to `end` of micro-batch `number`, to be written into its slot."""

    number: int
    begin: int
    end: int
    slot: Slot
    layout: BatchLayout


Flying = tuple[Slot, list[Future[tuple[str, ...]]]]


def load_micro_batches(batches: MicroBatchDataset, numbers: Iterable[int], workers: int, *, pinned: bool) -> Iterator[MicroBatch]:
    """The micro-batches of these numbers, in order. Each is valid until the next one is asked for.

    LostProcessError if a process was killed.
    """
    layout = BatchLayout(batches.count, batches.context, batches.size)
    pieces = -(-layout.count // PIECE)
    ahead = 1 + -(-PIECES_A_PROCESS * workers // pieces)
    slots = Slots(ahead, layout.slot_bytes, pinned=pinned)
    processes = Processes(workers, partial(_prepared, batches))
    flying: deque[Flying] = deque()
    try:
        for number in numbers:
            flying.append(_begun(processes, number, slots.take(), layout))
            if len(flying) == ahead:
                yield from _landed(flying.popleft(), batches, layout, slots)
        while flying:
            yield from _landed(flying.popleft(), batches, layout, slots)
    finally:
        processes.close()
        slots.close()


def _begun(processes: Processes[MicroBatchDataset], number: int, slot: Slot, layout: BatchLayout) -> Flying:
    ranges = ((begin, min(begin + PIECE, layout.count)) for begin in range(0, layout.count, PIECE))
    try:
        return slot, [processes.submit(_fill, Piece(number, begin, end, slot, layout)) for begin, end in ranges]
    except BrokenProcessPool as problem:
        raise _killed() from problem


def _landed(batch: Flying, batches: MicroBatchDataset, layout: BatchLayout, slots: Slots) -> Iterator[MicroBatch]:
    """The micro-batch once all its pieces are written; its slot is free when the next one is asked for."""
    import torch

    slot, pieces = batch
    unreadable: list[str] = []
    for piece in pieces:
        wait_for_first([piece])
        try:
            unreadable += piece.result()
        except BrokenProcessPool as problem:
            raise _killed() from problem
    pixels, tokens, about = (torch.from_numpy(array) for array in layout.arrays(slot))
    yield batches.micro(pixels, tokens, about, tuple(unreadable))
    slots.give_back(slot)


def _killed() -> LostProcessError:
    return LostProcessError(
        "A process of the training's loader was killed, probably because memory ran out: run again, with fewer of them "
        "(loader_workers) if it happens again. The training continues from its last checkpoint."
    )


def _prepared(batches: MicroBatchDataset) -> MicroBatchDataset:
    import torch

    torch.set_num_threads(1)
    return batches


def _fill(batches: Any, piece: Piece) -> tuple[str, ...]:
    mine = (array[piece.begin : piece.end] for array in piece.layout.arrays(piece.slot))
    return batches.fill(piece.number, piece.begin, *mine)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
