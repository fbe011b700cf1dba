"""Loads CLIP models from folders of the transformers library: its model and tokenizer, and its preprocessing in our form.
Images are prepared as its Pillow processor does: conversion to RGB first, then resizing, then a crop with odd margins rounded
down. Scaling and normalisation become mean and deviation of our transform.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datacomp_core import clip
from datacomp_core.checkpoints import require_finite
from datacomp_core.device import check_device
from datacomp_core.errors import DataError, SpecError, short_text
from datacomp_core.image_preprocessing import PixelArray, Pixels
from datacomp_core.untrusted_documents import read_json

if TYPE_CHECKING:
    import torch

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
KINDS = {2: "bilinear", 3: "bicubic"}
SQUARE, HALF = {"height": SIDE, "width": SIDE}, 0.5
DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": {
        "size": {"shortest_edge": SIDE},
        "do_center_crop": True,
        "crop_size": SQUARE,
        "resample": 3,
        "image_mean": MEAN,
        "image_std": DEVIATION,
    },
    "ViT": {"size": SQUARE, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "Siglip": {"size": SQUARE, "resample": 3, "image_mean": HALF, "image_std": HALF},
}
"""Defaults of each kind of image processor."""
IN_ANY = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_center_crop": False}
KIND = re.compile(r"(.*?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")


@dataclass(frozen=True)
class TransformersPixels(Pixels):
    """Prepares an image as `CLIPImageProcessor` does. `resize`: (height, width), or one number for the shorter side; `crop`
    likewise. An image smaller than the crop is padded with black, with the smaller half first.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()

    def __call__(self, image: Any) -> PixelArray:
        image = image if image.mode == "RGB" else image.convert("RGB")
        if self.resize:
            image = self._resized(image)
        pixels = np.asarray(image).transpose(2, 0, 1)
        return np.ascontiguousarray(_cropped(pixels, *self.crop) if self.crop else pixels)

    def _resized(self, image: Any) -> Any:
        from PIL import Image

        wide, high = image.size
        if len(self.resize) == 2:
            wanted = (self.resize[1], self.resize[0])
        else:
            side = self.resize[0]
            wanted = (side, int(side * high / wide)) if wide <= high else (int(side * wide / high), side)
        kind = Image.Resampling.BILINEAR if self.interpolation == "bilinear" else Image.Resampling.BICUBIC
        return image if image.size == wanted else image.resize(wanted, kind)


def _cropped(pixels: PixelArray, height: int, width: int) -> PixelArray:
    high, wide = pixels.shape[1:]
    if high < height or wide < width:
        top, left = max(height - high, 0) // 2, max(width - wide, 0) // 2
        padded = np.zeros((3, max(high, height), max(wide, width)), np.uint8)
        padded[:, top : top + high, left : left + wide] = pixels
        pixels, (high, wide) = padded, padded.shape[1:]
    top, left = (high - height) // 2, (wide - width) // 2
    return pixels[:, top : top + height, left : left + width]


def load(folder: Path, weights: Path, device: str) -> clip.Clip:
    """Load the model in a folder. DataError if a weight is missing (transformers itself would initialise it randomly) or not
    finite."""
    import torch
    import transformers

    check_device(device)
    pixels = pixels_of(folder)
    transformers.utils.logging.disable_progress_bar()
    try:
        loaded: Any = transformers.CLIPModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        model, told = loaded
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # transformers raises a dozen exception types
        raise DataError(f"{folder} cannot be loaded as a CLIP of transformers: {short_text(problem)}") from problem
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys", "error_msgs") for key in told.get(kind, ()))
    if wrong:
        raise DataError(
            f"{weights} does not fit {folder}/config.json: {len(wrong)} weights are missing or have a different "
            f"shape, such as {wrong[0]}."
        )
    require_finite(model, str(weights))
    image = model.config.vision_config.image_size
    high, wide = (image, image) if isinstance(image, int) else image
    if (pixels.height, pixels.width) != (high, wide):
        raise SpecError(
            f"{folder} prepares images of {pixels.height}x{pixels.width}, but its model needs {high}x{wide}: correct its "
            "preprocessor_config.json."
        )
    length = int(model.config.text_config.max_position_embeddings)

    def tokenize(texts: list[str]) -> torch.Tensor:
        found = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return found["input_ids"]

    def preprocess(image: Any) -> torch.Tensor:
        scaled = torch.from_numpy(pixels(image)).float().div_(255)
        return (scaled - torch.tensor(pixels.mean).view(3, 1, 1)) / torch.tensor(pixels.std).view(3, 1, 1)

    dim = int(model.config.projection_dim)
    return clip.set_evaluation_mode(clip.Clip(folder.name, _towers(model).to(device), preprocess, tokenize, device, pixels, dim))


def pixels_of(folder: Path) -> TransformersPixels:
    """Convert the processor's settings to our transform. SpecError if there is no equivalent."""
    given, where = _settings(folder)
    processor = _kind(given, where)
    found = IN_ANY | DEFAULTS[processor] | given
    try:
        resize = _resize(found["size"], square=processor == "ViT") if found["do_resize"] else ()
        crop = _crop(found["crop_size"]) if found["do_center_crop"] else ()
        # transformers computes x * factor on 0..255, ours x / 255: its mean and deviation are scaled by the ratio
        factor = float(found["rescale_factor"]) * 255 if found["do_rescale"] else 255.0
        if not 0 < factor < float("inf"):
            raise ValueError(f"rescale_factor {found['rescale_factor']}")
        scale = 1.0 if abs(factor - 1) < 1e-9 else factor
        mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if found["do_normalize"]:
            mean, deviation = _three(found["image_mean"]), _three(found["image_std"])
        kind = KINDS.get(int(found["resample"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise DataError(f"{where} is not the configuration of a CLIP ({problem!r}).") from problem
    if kind is None or (not crop and len(resize) != 2):
        what = f"resampling number {found.get('resample')}" if kind is None else "images of many shapes (no crop, no fixed size)"
        raise SpecError(f"{where} requires {what}, which is not supported: use bilinear (2) or bicubic (3), and one shape.")
    height, width = (crop or resize)[:2]  # pyright: ignore[reportAssignmentType]
    (r, g, b), (rs, gs, bs) = mean, deviation
    scaled = (r / scale, g / scale, b / scale), (rs / scale, gs / scale, bs / scale)
    try:
        return TransformersPixels(height, width, *scaled, kind, resize=resize, crop=crop)
    except DataError as problem:
        raise DataError(f"{where} cannot be used. {problem}") from problem


def _settings(folder: Path) -> tuple[dict[str, Any], str]:
    """The image processor's settings: in transformers 5's `processor_config.json`, else in `preprocessor_config.json`."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        found = read_json(path)
        found = found.get("image_processor") if name == "processor_config.json" and isinstance(found, dict) else found
        if isinstance(found, dict):
            return found, str(path)
    raise DataError(f"{folder} has no image processor settings: add preprocessor_config.json or processor_config.json.")


def _kind(settings: dict[str, Any], where: str) -> str:
    """Return the processor of the settings, a key of DEFAULTS. SpecError for an unknown one."""
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "CLIPImageProcessor")
    found = KIND.fullmatch(name)
    if found is None or found[1] not in DEFAULTS:
        known = ", ".join(f"{kind}ImageProcessor" for kind in DEFAULTS)
        raise SpecError(f"{where} is for the image processor {name}, which is not supported: use one of {known}.")
    return found[1]


def _resize(size: Any, *, square: bool) -> tuple[int, ...]:
    if isinstance(size, dict):
        if "shortest_edge" in size:
            if size.get("longest_edge"):
                raise ValueError("a longest_edge beside the shortest_edge is not supported")
            return (int(size["shortest_edge"]),)
        return int(size["height"]), int(size["width"])
    if isinstance(size, int):
        return (size, size) if square else (size,)
    return _pair(size)


def _crop(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    return (size, size) if isinstance(size, int) else _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    return height, width


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in (values if isinstance(values, list | tuple) else [values] * 3))
    return red, green, blue


def _towers(model: Any) -> Any:
    """A transformers CLIP with open_clip's two methods."""
    import torch

    def features(found: Any) -> torch.Tensor:
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    class Towers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = model

        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            return features(self.clip.get_image_features(pixel_values=pixels))

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return features(self.clip.get_text_features(input_ids=tokens))

    return Towers()
