"""Test sets in the layout of the hub repositories: opened once, read in one pass, decoded in processes without torch.

    <folder>/classnames.txt, zeroshot_classification_templates.txt   one a line; blank lines are dropped, as the reference does
    <folder>/test/nshards.txt, test/<n>.tar                          members <key>.cls, [.npy] or .txt, and one image
Samples, not shards, are split over the workers, and all tasks share them. A fault is a value that names the sample, so that
it ends one task and no other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from datacomp_core.clip import PixelArray, Pixels
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.shards import index_shard, read_samples
from datacomp_core.store.folder import Folder

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SPLIT = "test"
IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")  # in the reference's order of preference


@dataclass(frozen=True)
class Batch:
    """Samples that are read and decoded together. `members` says what each has beside its image: cls, npy, txt."""

    task: str
    number: int
    folder: Folder
    rows: pl.DataFrame
    members: tuple[str, ...]
    pixels: Pixels


@dataclass(frozen=True)
class Samples:
    """A decoded batch: pixels (n, 3, h, w) and what else was asked for, by member; or `fault`, which says what is wrong.

    `digest` is the sha256 over the samples' bytes, in order.
    """

    keys: list[str]
    pixels: PixelArray
    members: dict[str, list[Any]]
    digest: bytes
    fault: str = ""


@dataclass(frozen=True)
class EvalSet:
    """An opened test set: names and templates (empty for retrieval) and the index of its shards."""

    folder: Folder
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    shards: tuple[pl.DataFrame, ...]

    @property
    def num_samples(self) -> int:
        return sum(rows.height for rows in self.shards)

    def batches(self, task: str, size: int, members: tuple[str, ...], pixels: Pixels) -> Iterator[Batch]:
        """Cut by position, so the same batches come whatever the workers; no batch crosses a shard."""
        number = 0
        for rows in self.shards:
            for start in range(0, rows.height, size):
                yield Batch(task, number, self.folder / SPLIT, rows.slice(start, size), members, pixels)
                number += 1


def open_set(folder: Folder, *, classes: bool) -> EvalSet:
    """Read the small files and walk the tars' headers. DataError names what is missing, truncated or empty."""
    try:
        num_shards = int(folder.read(f"{SPLIT}/nshards.txt"))
    except ValueError as problem:
        raise DataError(f"{folder.at(SPLIT)}/nshards.txt is not a number.") from problem
    shards = [index_shard(folder / SPLIT, str(number)) for number in range(num_shards)]
    for shard in shards:
        if shard.damage:
            raise DataError(f"{folder.at(SPLIT)}/{shard.shard}.tar is damaged: {shard.damage}; download the set again.")
    found = EvalSet(
        folder,
        _lines(folder, CLASSNAMES) if classes else (),
        _lines(folder, TEMPLATES) if classes else (),
        tuple(shard.rows for shard in shards),
    )
    if not found.num_samples:
        raise DataError(f"{folder} holds no test sample.")
    return found


def _lines(folder: Folder, name: str) -> tuple[str, ...]:
    """The lines that are not blank, stripped. A blank line is no class: clip-benchmark 1.4, the reference's, drops it."""
    lines = tuple(line.strip() for line in folder.read(name).decode("utf-8").splitlines() if line.strip())
    if not lines:
        raise DataError(f"{folder.at(name)} is empty.")
    return lines


def read(batch: Batch) -> Samples:
    """Read and decode a batch, in order. Never raises for what is wrong with the data: see `Samples.fault`."""
    pixels = np.empty((batch.rows.height, 3, batch.pixels.height, batch.pixels.width), np.uint8)
    keys = batch.rows["key"].to_list()
    found: dict[str, list[Any]] = {name: [] for name in batch.members}
    digest = hashlib.sha256()
    place = 0
    try:
        for place, (_, members) in enumerate(read_samples(batch.folder, batch.rows)):
            pixels[place] = _decoded(members, batch.pixels, digest)
            for name in batch.members:
                found[name].append(_parsed(name, members, digest))
    except DatacompError as problem:
        shard = batch.rows["shard"][0]
        return Samples(keys, pixels, found, b"", f"sample {keys[place]} of {batch.folder.at(f'{shard}.tar')}: {problem}")
    return Samples(keys, pixels, found, digest.digest())


def _decoded(members: dict[str, bytes], pixels: Pixels, digest: Any) -> PixelArray:
    data = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    if data is None:
        raise DataError(f"there is no image (it has {', '.join(sorted(members)) or 'nothing'})")
    digest.update(len(data).to_bytes(8, "big") + data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return pixels(image)
    except Exception as problem:  # Pillow's decoders raise a dozen kinds on bad bytes
        raise DataError(f"the image cannot be decoded ({type(problem).__name__}: {problem})") from problem


def _parsed(name: str, members: dict[str, bytes], digest: Any) -> Any:
    data = members.get(name)
    if data is None:
        raise DataError(f"there is no {name}")
    digest.update(len(data).to_bytes(8, "big") + data)
    try:
        if name == "cls":
            return int(data)
        if name == "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        return data.decode("utf-8").splitlines()
    except (ValueError, EOFError) as problem:
        raise DataError(f"its {name} cannot be read ({problem})") from problem
