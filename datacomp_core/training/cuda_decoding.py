"""Decodes JPEGs on the GPU, for `decoding: cuda`: the loader's processes only read, find the crop and make tokens.

An ordinary JPEG goes into the place of its pixels as it is, if it fits; any other picture is decoded exactly, by the process that
read it. The decoder is the first that is installed of torchcodec (0.16 or later), nvImageCodec and torchvision, all on nvJPEG,
whose colours are not libjpeg's: `benchmarks/decoding.py` measures how far they lie apart, and no ranked training uses them.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datacomp_core.device import has_cuda
from datacomp_core.errors import DataError, SpecError
from datacomp_core.pictures import Box, pillow_image, rgb
from datacomp_core.training.prefetch import MicroBatch

if TYPE_CHECKING:
    import torch

    Decoder = Callable[[Sequence[torch.Tensor], Any], list[torch.Tensor | None]]

ABOUT = 5
"""Numbers that are kept of each sample: bytes of its JPEG (0: its pixels are there already), and left, top, right, bottom."""


def require_cuda(device: str) -> None:
    """SpecError if the training is not on a CUDA device, or torch finds none."""
    if not device.startswith("cuda"):
        raise SpecError(
            f"The recipe decodes on the GPU (decoding: cuda), but the training runs on {device}: use a CUDA device, or set "
            "decoding to fast or full."
        )
    if not has_cuda():
        raise SpecError(
            "The recipe decodes on the GPU (decoding: cuda), but torch finds no CUDA device on this machine: train on another "
            "machine, or set decoding to fast or full."
        )


def encoded_size(data: bytes, room: int) -> tuple[int, int] | None:
    """Width and height of a JPEG that the GPU is to decode; None for one that does not fit, and for any other picture."""
    if len(data) > room:
        return None
    image = pillow_image(data)
    return image.size if image.format == "JPEG" and image.mode == "RGB" else None


def keep_encoded(data: bytes, box: Box, place: npt.NDArray[np.uint8], about: npt.NDArray[np.int64]) -> None:
    """Write a JPEG into the place of its pixels (3, h, w), and its length and crop into `about` (5,)."""
    place.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    about[:] = (len(data), *box)


def decode_on_gpu(micro: MicroBatch, device: torch.device, decoder: Decoder | None = None) -> MicroBatch:
    """The micro-batch with all pixels, on the device. What the GPU refuses is decoded by the CPU; DataError if that fails too."""

    if micro.about is None:
        return micro
    size = micro.pixels.shape[2:]
    rows = [row for row, (length, *_) in enumerate(micro.about.tolist()) if length]
    pixels = micro.pixels.to(device, copy=True, non_blocking=True)
    flat = micro.pixels.flatten(1)
    jpegs = [flat[row, : int(micro.about[row, 0])] for row in rows]
    for row, data, image in zip(rows, jpegs, _images(jpegs, device, decoder or decoder_of(device.type)), strict=True):
        whole = _by_cpu(data, row).to(device) if image is None else image
        left, top, right, bottom = micro.about[row, 1:].tolist()
        pixels[row] = resized_on(whole[:, top:bottom, left:right], (int(size[0]), int(size[1])))
    return micro._replace(pixels=pixels, about=None)


def resized_on(part: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (3, h, w) resized to `size` by antialiased bicubic, in float32 on its device, which has no kernel for uint8."""
    import torch

    made = torch.nn.functional.interpolate(part[None].float(), size=size, mode="bicubic", antialias=True)
    return made[0].round_().clamp_(0, 255).to(torch.uint8)


def _images(jpegs: list[torch.Tensor], device: torch.device, decoder: Decoder) -> list[torch.Tensor | None]:
    """Pictures (3, h, w) on the device; None for those that are refused. A decoder gives all of a batch or nothing."""
    if not jpegs:
        return []
    try:
        return list(decoder(jpegs, device))
    except RuntimeError:
        return [_single(data, device, decoder) for data in jpegs]


def _single(data: torch.Tensor, device: torch.device, decoder: Decoder) -> torch.Tensor | None:
    try:
        return decoder([data], device)[0]
    except RuntimeError:
        return None


def _by_cpu(data: torch.Tensor, row: int) -> torch.Tensor:
    import torch

    try:
        return torch.from_numpy(rgb(data.numpy().tobytes()).copy()).permute(2, 0, 1)
    except Exception as problem:  # Pillow's decoders raise a dozen kinds
        told = f"{type(problem).__name__}: {problem}".rstrip(": ")
        raise DataError(
            f"The JPEG of sample {row} of a micro-batch cannot be decoded ({told}): use decoding fast or full, which name the "
            "sample and can tolerate it (tolerated_corrupt)."
        ) from problem


@cache
def decoder_of(kind: str) -> Decoder:
    """The first decoder that is installed, for a kind of device."""
    if _has("torchcodec.decoders"):
        from torchcodec import decoders  # pyright: ignore[reportMissingImports]

        if hasattr(decoders, "decode_jpeg"):
            return lambda jpegs, device: decoders.decode_jpeg(list(jpegs), mode="RGB", device=device)
    if kind == "cuda" and _has("nvidia.nvimgcodec"):
        return _nvimgcodec
    return _torchvision


def decoder_name(kind: str) -> str:
    """The library that `decoder_of` takes."""
    found = decoder_of(kind)
    return "nvimgcodec" if found is _nvimgcodec else "torchvision" if found is _torchvision else "torchcodec"


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@cache
def _nvimgcodec_decoder(index: int) -> Any:
    from nvidia import nvimgcodec  # pyright: ignore

    return nvimgcodec.Decoder(device_id=index)


def _nvimgcodec(jpegs: Sequence[torch.Tensor], device: Any) -> list[torch.Tensor | None]:
    import torch

    stream = torch.cuda.current_stream(device).cuda_stream
    images = _nvimgcodec_decoder(device.index or 0).decode([data.numpy() for data in jpegs], cuda_stream=stream)
    return [None if image is None else torch.from_dlpack(image.to_dlpack()).permute(2, 0, 1) for image in images]


def _torchvision(jpegs: Sequence[torch.Tensor], device: Any) -> list[torch.Tensor | None]:
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated in favour of torchcodec, which is taken where it is installed
        return list(decode_jpeg(list(jpegs), ImageReadMode.RGB, device))
