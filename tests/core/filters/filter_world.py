"""A small random pool on disk, and what a filter keeps of it by the plainest Python there is, row by row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.recipes.base import Recipe
from datacomp_core.selection.select import Selection, select
from datacomp_core.store import Folder

Row = dict[str, Any]
WORDS = ["a", "photo", "of", "the", "red", "dog", "on", "my", "beach", "und", "der", "Hund", "im", "Garten", "le", "chat"]


def rows(seed: int = 0, number: int = 300) -> list[Row]:
    chance = random.Random(seed)

    def or_null(value: Any) -> Any:
        return None if chance.random() < 0.08 else value

    return [
        {
            "uid": f"{chance.getrandbits(128):032x}",
            "text": or_null(" ".join(chance.choices(WORDS, k=chance.randrange(7)))),
            "original_width": or_null(chance.randrange(0, 500)),
            "original_height": or_null(chance.randrange(0, 500)),
            "clip_l14_similarity_score": or_null(float(np.float32(round(chance.gauss(0.25, 0.1), 2)))),
            "clip_b32_similarity_score": or_null(float(np.float32(chance.gauss(0, 1)))),
        }
        for _ in range(number)
    ]


def write(folder: Path, table: list[Row], num_parts: int = 4) -> Folder:
    schema = {
        "uid": pl.String,
        "text": pl.String,
        "original_width": pl.Int64,
        "original_height": pl.Int64,
        "clip_l14_similarity_score": pl.Float32,
        "clip_b32_similarity_score": pl.Float32,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(num_parts):
        start, end = (len(table) * edge // num_parts for edge in (part, part + 1))
        pl.DataFrame(table[start:end], schema=schema).write_parquet(folder / f"{part:08d}.parquet")
    return Folder(folder)


def kept(tree: Any, folder: Folder, out: Path, scores: Any = (), **options: Any) -> tuple[list[str], Selection]:
    """The uids a filter keeps, and its account."""
    done = select(Recipe(name="tested", filter=tree), folder, scores, out=Folder(out), **options)
    return uid.unpack(uid.read_subset((out / "subset.npy").read_bytes(), "it")).to_list(), done


def passes(tree: dict[str, Any], row: Row, pool: list[Row]) -> bool | None:
    """Three-valued and slow: the definition."""
    kind = tree["kind"]
    if kind == "not":
        said = passes(tree["filter"], row, pool)
        return None if said is None else not said
    if kind in {"all", "any"}:
        answers = [passes(each, row, pool) for each in tree["filters"]]
        decisive = kind == "any"
        return decisive if decisive in answers else None if None in answers else not decisive
    return LEAVES[kind](tree, row, pool)


def _length(tree: dict[str, Any], row: Row, _: list[Row]) -> bool | None:
    if row["text"] is None:
        return None
    return len(row["text"].split() if tree["kind"] == "words" else row["text"]) >= tree["at_least"]


def _image_size(tree: dict[str, Any], row: Row, _: list[Row]) -> bool | None:
    sizes = (row["original_width"], row["original_height"])
    if any(size is not None and size < tree["shorter_side_at_least"] for size in sizes):
        return False
    return None if None in sizes else True


def _threshold(tree: dict[str, Any], row: Row, _: list[Row]) -> bool | None:
    score = row[f"clip_{tree['score']}_similarity_score"]
    return None if score is None else bool(np.float32(score) >= np.float32(tree["at_least"]))


def _top_fraction(tree: dict[str, Any], row: Row, pool: list[Row]) -> bool | None:
    column = f"clip_{tree['score']}_similarity_score"
    ranked = sorted((other[column] for other in pool), key=lambda score: (score is None, -(score or 0)))
    cut = ranked[int(len(ranked) * tree["fraction"])]
    return None if row[column] is None else cut is not None and row[column] >= cut


LEAVES = {
    "words": _length,
    "characters": _length,
    "image_size": _image_size,
    "threshold": _threshold,
    "top_fraction": _top_fraction,
}
