"""Scores how well an image fits its caption when its words are covered. Source: Maini et al. 2024 (arXiv:2307.03132), T-MARS.

Text is detected, its boxes are filled with the mean colour of what surrounds them, and CLIP scores the rest. T-MARS detects with
FAST (fast_tiny_tt_512) and scores with B/32; here the detector is PP-OCR's, which the package rapidocr ships, and the model is
the one that is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.errors import DataError, SpecError
from datacomp_core.input_classes import InputUse
from datacomp_core.scores.base import register
from datacomp_core.scores.image_scores import ImageScore
from datacomp_core.store import Folder

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]
RING = 3


@register("text_masked")
class TextMasked(ImageScore):
    """Cosine of caption and masked picture."""

    on_gpu = True
    paper = "Maini et al. 2024, T-MARS (arXiv:2307.03132)"
    needs = frozenset({"images", "model"})
    detector: Literal["pp-ocr"] = Field(default="pp-ocr", description="Which text detector.")
    sure: float = Field(default=0.6, ge=0, le=1, description="Minimum confidence of a box.")

    @classmethod
    def uses(cls, given: Mapping[str, Any]) -> Iterator[InputUse]:
        yield from super().uses(given)
        yield InputUse("PP-OCR's detector of text", "public")

    def of_samples(self, samples: Sequence[tuple[Any, str]], model: tuple[str, str] | None, device: str) -> list[float]:
        if model is None:
            raise DataError("The score text_masked needs a CLIP model and its checkpoint: give them, or run it in a flow.")
        masked = [self._masked(np.asarray(image, np.uint8)) for image, _ in samples]
        return cosines(masked, [caption for _, caption in samples], *model, device)

    def _masked(self, pixels: Pixels) -> Pixels:
        return mask(pixels, _detector(self.sure)(pixels))


def mask(pixels: Pixels, boxes: Boxes) -> Pixels:
    """Fill boxes (n, 4 corners, 2) of a picture (height, width, 3) with the mean colour of a ring around each."""
    import cv2

    filled = pixels.copy()
    for box in boxes:
        inside = np.zeros(pixels.shape[:2], np.uint8)
        cv2.fillPoly(inside, [np.round(box).astype(np.int32)], 1)
        around = cv2.dilate(inside, np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)) - inside
        where = around if around.any() else inside
        if where.any():
            filled[inside == 1] = np.round(pixels[where == 1].mean(0)).astype(np.uint8)
    return filled


def cosines(pictures: Sequence[Pixels], captions: Sequence[str], name: str, checkpoint: str, device: str) -> list[float]:
    """CLIP scores of pictures and captions."""
    from PIL import Image

    clip = _model(name, checkpoint, device, _state(checkpoint))
    pixels = np.stack([clip.pixels(Image.fromarray(picture)) for picture in pictures])
    images, texts = clip.encode_images(pixels), clip.encode_texts(list(captions))
    return (images * texts).sum(1).float().cpu().tolist()


def _state(checkpoint: str) -> str:
    """Return a mark that changes when a checkpoint is overwritten, with one request: its inode's change time, or its ETag."""
    if "://" not in checkpoint and os.path.exists(checkpoint):
        found = os.stat(checkpoint)
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    folder, _, file = checkpoint.rpartition("/")
    return Folder(folder or ".").mark(file)


@lru_cache(maxsize=1)
def _model(name: str, checkpoint: str, device: str, state: str) -> Any:
    """Loaded once a process, and again when its checkpoint was overwritten."""
    from datacomp_core import clip
    from datacomp_core.device import default_device

    folder, _, file = checkpoint.rpartition("/")
    with Folder(folder or ".").open(file) as weights:
        return clip.load(name, weights, device or default_device())


@cache
def _detector(sure: float) -> Any:
    """A function from pixels (height, width, 3) to boxes (n, 4, 2); loaded once a process."""
    try:
        from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as problem:
        raise SpecError(
            "The score text_masked needs the packages rapidocr and onnxruntime: pip install 'datacomp[ocr]'."
        ) from problem
    engine = RapidOCR(params={"Det.box_thresh": sure, "Global.log_level": "critical"})

    def boxes(pixels: Pixels) -> Boxes:
        found: Any = engine(pixels[:, :, ::-1], use_det=True, use_cls=False, use_rec=False)
        return np.empty((0, 4, 2), np.float32) if found.boxes is None else np.asarray(found.boxes, np.float32)

    return boxes
