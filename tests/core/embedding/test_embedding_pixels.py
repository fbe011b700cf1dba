"""The image transform without torch is open_clip's, bit for bit, in every mode a test set may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datacomp_core import clip
from datacomp_core.image_preprocessing import Pixels

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "YCbCr")
SIZES = ((64, 64), (32, 32), (33, 91), (120, 31), (7, 200), (1, 1), (224, 200))


@pytest.fixture(scope="module")
def model() -> clip.Clip:
    return clip.load("datacomp-tiny", None, "cpu")


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    random = np.random.default_rng(size[0])
    coloured = Image.fromarray(random.integers(0, 255, (size[1], size[0], 4), dtype=np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65535, (size[1], size[0]), dtype=np.uint16))
    return coloured.convert("RGB").convert(mode) if mode in ("P", "CMYK", "YCbCr", "1") else coloured.convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_both_halves_together_are_open_clips_transform(model: clip.Clip, mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)
    ours = torch.from_numpy(model.pixels(image))[None]
    normalised: Any = model._normalised(ours.float().div_(255))  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(normalised[0], model.preprocess(image))


def test_squashing_models_too(model: clip.Clip) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    theirs: Any = image_transform_v2(PreprocessCfg(size=48, resize_mode="squash", interpolation="bilinear"), is_train=False)
    pixels = Pixels(48, 48, model.pixels.mean, model.pixels.std, "bilinear", "squash")
    image = picture("RGB", (33, 91))
    found = model._normalised(torch.from_numpy(pixels(image))[None].float().div_(255))  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(found[0], theirs(image))
