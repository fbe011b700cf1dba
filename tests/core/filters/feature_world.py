"""A small random pool with embeddings beside its metadata, and vectors to compare them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import filter_world as world
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from datacomp_core.store import Folder

Rows = npt.NDArray[np.float32]
DIMENSIONS = 16


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(folder: Path, table: list[world.Row], num_parts: int = 3, seed: int = 0) -> tuple[Folder, Rows, Rows]:
    """The metadata folder, image and text features (rows, d); every tenth row has none, some images nearly agree."""
    metadata = world.write(folder, table, num_parts)
    chance = np.random.default_rng(seed)
    images = unit(chance.normal(size=(len(table), DIMENSIONS)))
    images[1::4] = unit(images[::4][: len(images[1::4])] + 0.05 * chance.normal(size=(len(images[1::4]), DIMENSIONS)))
    texts = unit(images + 0.8 * chance.normal(size=images.shape))
    images, texts = images.astype(np.float16), texts.astype(np.float16)
    images[::10] = np.nan
    start = 0
    for name in metadata.files(".parquet"):
        stop = start + pl.read_parquet(metadata.at(name)).height
        path = folder / name.replace(".parquet", ".npz")
        np.savez(path, l14_img=images[start:stop], l14_txt=texts[start:stop])
        start = stop
    return metadata, images.astype(np.float32), texts.astype(np.float32)


def saved(path: Path, rows: npt.NDArray[Any]) -> str:
    np.save(path, rows.astype(np.float32))
    return str(path)


def column(folder: Folder, name: str) -> list[Any]:
    return [value for file in folder.files(".parquet") for value in pl.read_parquet(folder.at(file))[name].to_list()]


def regroup_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets are brought together however few they are, as those of a very large pool."""
    monkeypatch.setattr("datacomp_core.shared_buckets.FILES_AT_ONCE", 1)
    monkeypatch.setattr("datacomp_core.shared_buckets.RANGES_WORTH_REGROUPING", 1)
