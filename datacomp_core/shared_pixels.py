"""Memory that decoding processes write pixels into and the one that feeds a model reads from: nothing goes through a pipe.

It is an anonymous file (memfd) that children open through /proc: no name that a killed run could leave behind, and no /dev/shm,
which many containers cut to 64 MB.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np

from datacomp_core.image_preprocessing import PixelArray

log = logging.getLogger(__name__)

_numbers = itertools.count()
_mapped: dict[tuple[int, int], mmap.mmap] = {}  # of this process: a block by its maker and number


class Slot(NamedTuple):
    """`size` bytes at `start` of block `number` of process `maker`, which has it open as `handle`."""

    maker: int
    number: int
    handle: int
    start: int
    size: int

    def array(self, shape: tuple[int, ...], start: int = 0) -> PixelArray:
        """Pixels of the slot, from its byte `start` on; the block is mapped once a process."""
        key = self.maker, self.number
        if key not in _mapped:
            handle = os.open(f"/proc/{self.maker}/fd/{self.handle}", os.O_RDWR)
            _mapped[key] = mmap.mmap(handle, 0)
            os.close(handle)
        return np.ndarray(shape, np.uint8, _mapped[key], self.start + start)


class Slots:
    """`count` slots of `size` bytes, taken and given back by the one process that made them."""

    def __init__(self, count: int, size: int, *, pinned: bool = False) -> None:
        self._key = os.getpid(), next(_numbers)
        self._handle = os.memfd_create("datacomp-pixels")
        os.ftruncate(self._handle, count * size)
        block = _mapped[self._key] = mmap.mmap(self._handle, 0)
        self._free = [Slot(*self._key, self._handle, number * size, size) for number in range(count)]
        self._pinned: Any = _pin(block) if pinned else None

    def take(self) -> Slot:
        return self._free.pop()

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)

    def close(self) -> None:
        """The memory is freed when no object uses it."""
        _unpin(self._pinned)
        del _mapped[self._key]
        os.close(self._handle)


def _pin(block: mmap.mmap) -> Any:
    """Tell CUDA that the block does not move, so that copies from it need not be waited for. None where it cannot be told, as
    for a process with a small limit of locked memory: copies are then slower, and the same."""
    import torch

    whole = torch.frombuffer(block, dtype=torch.uint8)
    try:
        status = int(cast("Any", torch.cuda.cudart()).cudaHostRegister(whole.data_ptr(), whole.numel(), 0))
    except (AssertionError, RuntimeError) as problem:  # torch has no CUDA, or finds no device
        log.info("cannot pin shared memory (%s)", problem)
        return None
    if not status:
        return whole
    log.info("cannot pin shared memory (CUDA error %d)", status)
    with suppress(RuntimeError):  # the runtime keeps its last error, and the next kernel would raise it
        torch.zeros(1, device="cuda").add_(1)
    return None


def _unpin(whole: Any) -> None:
    if whole is not None:
        import torch

        cast("Any", torch.cuda.cudart()).cudaHostUnregister(whole.data_ptr())
