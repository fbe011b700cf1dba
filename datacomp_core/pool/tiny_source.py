"""Reads the raw material of the embedded pool: real drawings with real names, and their names in other languages.

`tiny_data/LICENSES.md` says where each art set comes from. A drawing is named by (`source`, `key`); emoji art sets share
keys (code points), so one concept has the same key in each of them.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from PIL import Image

DATA = Path(__file__).with_name("tiny_data")

POOL_SETS = ("noto", "noto-v1", "twemoji", "fxemoji")
TRUSTED_SETS = ("emojione", "fluent-emoji-flat")
SHIFTED_SET = "fluent-3d"
CLIPART_SET = "openclipart"

FINGERPRINT_SIDE = 16


class DrawingName(NamedTuple):
    """The key of a drawing: art set and key."""

    source: str
    key: str


class Drawing(NamedTuple):
    """One drawing. `name` and `keywords` are English (Unicode CLDR), except for clip art, where users wrote `title`."""

    source: str
    key: str
    name: str
    category: str
    subcategory: str
    keywords: tuple[str, ...]
    title: str
    path: str
    image: bytes

    @property
    def id(self) -> DrawingName:
        return DrawingName(self.source, self.key)


@lru_cache(maxsize=1)
def drawings() -> tuple[Drawing, ...]:
    """All drawings in the order of the file: WebP, RGB, longest side 64 px."""
    columns = [name for name in Drawing._fields if name != "keywords"]
    frame = pl.read_parquet(DATA / "images.parquet").with_columns(pl.col(pl.String).fill_null(""))
    keywords = frame["keywords"].to_list()
    rows = frame.select(columns).iter_rows(named=True)
    return tuple(Drawing(**row, keywords=tuple(words or ())) for row, words in zip(rows, keywords, strict=True))


def of_sets(*sources: str) -> list[Drawing]:
    return [drawing for drawing in drawings() if drawing.source in sources]


@lru_cache(maxsize=1)
def translations() -> dict[str, dict[str, tuple[str, tuple[str, ...]]]]:
    """key -> language -> (name, keywords), from Unicode CLDR."""
    table: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {}
    for key, lang, name, keywords in pl.read_parquet(DATA / "translations.parquet").iter_rows():
        table.setdefault(key, {})[lang] = (name, tuple(keywords or ()))
    return table


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def fingerprint(image: Image.Image) -> np.ndarray:
    """Return the image at 16 x 16 RGB, for any shape: 768 values of uint8."""
    return np.asarray(image.resize((FINGERPRINT_SIDE, FINGERPRINT_SIDE), Image.Resampling.BOX)).reshape(-1)
