"""Copies batches to the device one step ahead, in a separate thread and CUDA stream; the bytes are the same. A loop that
copies its own batch makes the GPU wait; a step of 4,096 images is 0.6 GB of uint8.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class MicroBatch(NamedTuple):
    """One micro-batch: uint8 pixels (n, 3, h, w), tokens (n, context), and the names of the unreadable samples it lacks.

    Its memory may be used again when the next one is asked for.
    """

    pixels: torch.Tensor
    tokens: torch.Tensor
    unreadable: tuple[str, ...]
    about: torch.Tensor | None = None  # of what is still encoded (cuda_decoding.ABOUT)


def prefetched(source: Iterator[MicroBatch], device: Any, depth: int) -> Iterator[MicroBatch]:
    """Yield the batches of `source`, on the device already, at most `depth` early. An error of `source` is raised in its turn."""
    made: queue.Queue[tuple[MicroBatch, Any] | BaseException | None] = queue.Queue(depth)
    threading.Thread(target=_fill, args=(source, device, made), daemon=True, name="ahead").start()
    while True:
        item = made.get()
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        micro, copied = item
        if copied is not None:
            _take_over(micro, copied)
        yield micro


def _fill(source: Iterator[MicroBatch], device: Any, made: queue.Queue[Any]) -> None:
    try:
        stream = _stream(device)
        for micro in source:
            made.put(_copied(micro, device, stream))
    except BaseException as problem:
        made.put(problem)
        return
    made.put(None)


def _stream(device: Any) -> Any:
    import torch

    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _copied(micro: MicroBatch, device: Any, stream: Any) -> tuple[MicroBatch, Any]:
    import torch

    from datacomp_core.training.cuda_decoding import decode_on_gpu

    if stream is None:
        micro = decode_on_gpu(micro, device)
        return micro._replace(pixels=micro.pixels.clone(), tokens=micro.tokens.clone()), None
    with torch.cuda.stream(stream):
        micro = decode_on_gpu(micro, device)
        pixels, tokens = (part.to(device, non_blocking=True) for part in (micro.pixels, micro.tokens))
        copied = torch.cuda.Event()
        copied.record(stream)
    copied.synchronize()  # the slot is filled again only then; it is this thread that waits
    return micro._replace(pixels=pixels, tokens=tokens), copied


def _take_over(micro: MicroBatch, copied: Any) -> None:
    """Let the present stream use what another one has filled, and tell the allocator so."""
    import torch

    present = torch.cuda.current_stream(micro.pixels.device)
    present.wait_event(copied)
    micro.pixels.record_stream(present)
    micro.tokens.record_stream(present)
