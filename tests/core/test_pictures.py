"""Pictures are decoded as Pillow decodes them, whatever decodes them; the fast way differs by rounding."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from datacomp_core.image_preprocessing import Pixels
from datacomp_core.pictures import open_picture, pillow_image, resized, rgb

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SAVED: list[dict[str, Any]] = [
    *({"subsampling": kind, "quality": quality} for kind in (0, 1, 2) for quality in (30, 95)),
    {"progressive": True},
    {"optimize": True, "restart_marker_blocks": 2},
    {"keep_rgb": True},
    {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    {"comment": b"a comment", "dpi": (72, 72)},
]

OTHERS = {
    "JPEG": ["L", "CMYK", "1"],
    "PNG": ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"],
    "WEBP": ["RGB", "L", "RGBA"],
    "GIF": ["RGB", "L", "1", "P", "RGBA"],
    "TIFF": ["RGB", "L", "CMYK", "1", "P", "RGBA", "LA", "I;16"],
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (max(1, height // 5), max(1, width // 5), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> tuple[str, bytes] | str:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as problem:
        return type(problem).__name__
    return image.mode, image.tobytes()


def by_us(data: bytes) -> tuple[str, bytes] | str:
    try:
        image = open_picture(data)
        image.load()
    except Exception as problem:
        return type(problem).__name__
    return image.mode, image.tobytes()


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_a_jpeg_has_pillows_pixels_at_every_size(options: dict[str, Any]) -> None:
    for width, height in [(1, 1), (7, 3), (8, 8), (17, 31), (33, 16), (64, 47), (160, 121)]:
        data = saved(picture(width, height), **options)
        assert by_us(data) == by_pillow(data)
        assert np.array_equal(rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in OTHERS.items() for mode in modes])
def test_what_is_no_ordinary_jpeg_is_pillows(kind: str, mode: str) -> None:
    data = saved(picture(40, 30, "L" if mode == "I;16" else mode).convert(mode), kind)
    assert by_us(data) == by_pillow(data)


def test_damaged_jpegs_end_as_with_pillow() -> None:
    """Cut at any place, or with wrong bytes: the same pixels, or the same kind of error."""
    numbers = np.random.default_rng(1)
    kinds: list[dict[str, Any]] = [{}, {"progressive": True}, {"restart_marker_blocks": 3}]
    for options in kinds:
        whole = saved(picture(48, 40), **options)
        for cut in range(0, len(whole), 37):
            assert by_us(whole[:cut]) == by_pillow(whole[:cut]), cut
        for _ in range(150):
            data = bytearray(whole)
            for place in numbers.integers(0, len(data), int(numbers.integers(1, 4))):
                data[place] = int(numbers.integers(256))
            assert by_us(bytes(data)) == by_pillow(bytes(data))
    assert by_us(b"") == by_pillow(b"") == "UnidentifiedImageError"


def test_too_many_pixels_are_an_error_as_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = saved(picture(40, 30))
    assert by_us(data) == by_pillow(data) == "DecompressionBombError"
    with pytest.raises(Image.DecompressionBombError):
        rgb(data)


def require_rounding(mine: Any, theirs: Any) -> None:
    """Two roundings on the way, each with weights whose sizes sum to 1.3 or so: by one grey level, in few places by two."""
    off = np.abs(mine - theirs)
    assert off.max() <= 2
    assert (off > 0).mean() < 0.03
    assert (off > 1).mean() < 1e-3


def test_the_fast_way_is_equal_to_rounding() -> None:
    for seed, (width, height, size) in enumerate(
        [(512, 384, 224), (300, 500, 224), (97, 61, 64), (40, 40, 64), (64, 64, 64), (50, 200, 64), (200, 50, 64), (30, 60, 64)]
    ):
        image = picture(width, height, seed=seed)
        box = (3, 5, width - 2, height - 7)
        theirs = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        mine = resized(np.asarray(image), box, (size, size)).astype(int)
        assert mine.shape == theirs.shape
        require_rounding(mine, theirs)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_fast_transform_of_an_encoder_is_equal_to_rounding(mode: str, interpolation: str) -> None:
    transform = Pixels(48, 48, MEAN, STD, interpolation, mode)
    for width, height in [(64, 64), (100, 75), (75, 101), (48, 48), (48, 90), (30, 20)]:
        image = picture(width, height)
        exact, fast = transform(image).astype(int), transform.fast(np.asarray(image)).astype(int)
        assert exact.shape == fast.shape == (3, 48, 48)
        require_rounding(fast, exact)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
READERS: dict[str, Callable[[bytes], Any]] = {
    "opened": lambda data: open_picture(data).convert("RGB"),
    "rgb": rgb,
    "pillow_image": lambda data: pillow_image(data).load(),
}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once somebody has started Ghostscript."""
    mark, program = tmp_path / "started", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho started >> '{mark}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it once
    return mark


def test_an_eps_would_start_ghostscript(started: Path) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(EPS)).load()
    assert started.exists()


@pytest.mark.parametrize("reader", READERS)
def test_no_picture_starts_a_program(started: Path, reader: str) -> None:
    with pytest.raises(UnidentifiedImageError, match=r"not a picture of a known format \(JPEG, PNG"):
        READERS[reader](EPS)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["BMP", "DIB", "PPM", "JPEG2000", "AVIF", *OTHERS])
def test_the_known_formats_are_read(kind: str) -> None:
    data = saved(picture(32, 24), kind)
    assert open_picture(data).convert("RGB").size == (32, 24)
    assert np.array_equal(rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
