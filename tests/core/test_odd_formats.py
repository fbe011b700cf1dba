"""A picture that makes Pillow raise what nobody expects (a DDS: NotImplementedError; a PPM: ValueError) ends one sample."""

from __future__ import annotations

import hashlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from datacomp_core.embedding import decode
from datacomp_core.errors import DataError
from datacomp_core.evaluation import datasets
from datacomp_core.image_preprocessing import Pixels
from datacomp_core.leaderboard.site import contact_sheets
from datacomp_core.pool.decontaminate import hash_of
from datacomp_core.scores import image_scores

HEADER = struct.pack("<7I", 124, 0x1007, 32, 32, 0, 0, 0) + b"\0" * 44 + struct.pack("<2I4s5I", 32, 4, b"ZZZZ", 0, 0, 0, 0, 0)
DDS = b"DDS " + HEADER + b"\0" * 4116


def test_pillow_raises_what_nobody_expects() -> None:
    with pytest.raises(NotImplementedError):
        Image.open(io.BytesIO(DDS)).load()


def test_each_reader_of_pictures_names_or_counts_it() -> None:
    pixels = Pixels(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(
        DataError, match="cannot decode the image .UnidentifiedImageError: not a picture of a known format .JPEG, PNG"
    ):
        datasets._decoded({"jpg": DDS}, pixels, hashlib.sha256(), "first")
    assert decode._into([np.zeros((3, 8, 8), np.uint8)], {"jpg": DDS}, (pixels,)) == "corrupt_image"
    assert image_scores._image(DDS) is None
    assert hash_of(DDS) is None
    assert contact_sheets._thumbnail({"jpg": DDS}) == ("", "cannot read the picture")


def test_an_odd_fault_in_a_known_format_is_the_sample_s() -> None:
    pixels, ppm = Pixels(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), b"P6\n40 x\n255\n" + bytes(40)
    with pytest.raises(ValueError, match="invalid literal|Non-decimal"):
        Image.open(io.BytesIO(ppm)).load()
    with pytest.raises(DataError, match="cannot decode the image .ValueError"):
        datasets._decoded({"jpg": ppm}, pixels, hashlib.sha256(), "first")
    assert decode._into([np.zeros((3, 8, 8), np.uint8)], {"jpg": ppm}, (pixels,)) == "corrupt_image"
    assert image_scores._image(ppm) is None
    assert hash_of(ppm) is None
