"""Metadata as dirty as the web's, seeded: what the reference was run on, and what our filters are run on, row for row.

Captions in eleven languages and many shapes: control characters, separators that only Python takes for white space, emoji,
right-to-left, 10,000 characters, empty; sizes of zero; scores with ties, nulls and values that float32 cannot hold; repeated
uids. Null captions are made apart: the reference cannot take them.
"""

from __future__ import annotations

import hashlib
import random
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl

PARTS, ROWS = 3, 700
SPACES = [
    "\t",
    "\n",
    "\x0b",
    "\x0c",
    "\r",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x1f",
    "\x85",
    "\xa0",
    "\u1680",
    "\u2003",
    "\u2028",
    "\u3000",
]
ODD = [
    "",
    " ",
    "\n\n\n",
    "a b c",
    "a b\x1cc d",
    "one\u200btwo three four",
    "\x00\x01\x02 nul bytes in it",
    "photo\x00of\x00a dog",
    "👩‍👩‍👧‍👦 family 👍🏽",
    "🔥🔥🔥🔥🔥🔥",
    "שלום עולם, תמונה יפה",
    "\u202eright to left override\u202c",
    "ﷺ ﷽ a picture",
    "IMG_2041.JPG",
    "https://example.invalid/a?b=c&d=e",
    "Ａ ｐｈｏｔｏ ｏｆ ａ ｄｏｇ",
    "e\u0301\u0301\u0301 combining accents here",
    "\ufeffbyte order mark first",
    "tab\tseparated\tcaption\there",
    "the " * 2500,
    "x" * 10_000,
    "\x7f\x80\x9f controls of the second sort",
    "a photo of a cat\r\nand a dog",
    "12345 67890 11121",
    "!!! ??? ...",
    "Ǆ ǅ ǆ titlecase digraphs",
    "\U0010ffff \ue000 private use",
]


def write(folder: Path, *, dtype: type[pl.DataType] = pl.Float32) -> str:
    """Write the parts; returns a hash over all rows, by which one knows that the inputs are still the same."""
    chance = random.Random("dirty metadata, 1")
    captions = _captions()
    digest = hashlib.sha256()
    seen: list[str] = []
    for part in range(PARTS):
        rows = [_row(chance, captions, seen) for _ in range(ROWS)]
        digest.update(repr(rows).encode("utf-8"))
        frame = pl.DataFrame(rows, schema=_schema(dtype), orient="row")
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(folder / f"{part:08d}.parquet", row_group_size=250)
    return digest.hexdigest()


def _schema(dtype: type[pl.DataType]) -> pl.Schema:
    return pl.Schema(
        {
            "uid": pl.String,
            "text": pl.String,
            "original_width": pl.Int64,
            "original_height": pl.Int64,
            "clip_b32_similarity_score": dtype(),
            "clip_l14_similarity_score": dtype(),
        }
    )


def _captions() -> list[str]:
    data = resources.files("datacomp_core") / "pool" / "tiny_data" / "translations.parquet"
    table = pl.read_parquet(str(data))
    named = [f"{name}: {', '.join(words)}" for name, words in zip(table["name"], table["keywords"].to_list(), strict=True)]
    english = ["a photo of a dog on the beach", "Black leather shoes for men, size 42", "cheap flights to Rome", "home", "My dog"]
    return named[:: len(named) // 400] + english * 60


def _row(chance: random.Random, captions: list[str], seen: list[str]) -> tuple[str, str, int, int, float | None, float | None]:
    uid = chance.choice(seen) if seen and chance.random() < 0.02 else f"{chance.getrandbits(128):032x}"
    seen.append(uid)
    text = chance.choice(ODD) if chance.random() < 0.25 else chance.choice(captions)
    if chance.random() < 0.2:
        text = text.replace(" ", chance.choice(SPACES))
    sides = [200, 201, 320, 600, 603] if chance.random() < 0.7 else [0, 1, 66, 199, 200, 600, 601, 4000]
    width, height = chance.choice(sides), chance.choice(sides)
    tied = round(chance.gauss(0.25, 0.05), 2)
    fine = float(np.float32(chance.gauss(0.22, 0.06)))
    return uid, text, width, height, *(None if chance.random() < 0.03 else score for score in (tied, fine))
