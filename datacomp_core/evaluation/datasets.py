"""Test sets in the hub's webdataset layout: opened once, read in one pass, decoded in processes without torch.

    <folder>/classnames.txt, zeroshot_classification_templates.txt   one a line; blank lines are dropped, as the reference does
    <folder>/test/nshards.txt, test/<n>.tar                          members <key>.cls, [.npy] or .txt, and one image
Samples, not shards, are split over the workers, and all tasks share them. A fault is a value that names the sample, so that
it ends one task and no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl

from datacomp_core.arrays import read_npy
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.image_preprocessing import PixelArray, Pixels
from datacomp_core.pictures import open_picture
from datacomp_core.sample_members import PICTURES
from datacomp_core.shards import index_shard, read_samples
from datacomp_core.store.folder import Folder

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SPLIT = "test"
IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg", *PICTURES[4:])  # in the reference's order of preference


class EvalBatch(Protocol):
    """Samples of a task that are read and decoded together, in any process; `number` counts the task's batches from 0."""

    @property
    def task(self) -> str: ...
    @property
    def number(self) -> int: ...
    def read(self) -> Samples:
        """Never raises for what is wrong with the data: see `Samples.fault`."""
        ...


class TestSet(Protocol):
    """An opened test set. `size` is what the catalog counts; `num_samples` is how many images come in batches."""

    __test__ = False  # not one of pytest's

    @property
    def folder(self) -> Folder: ...
    @property
    def classnames(self) -> tuple[str, ...]: ...
    @property
    def templates(self) -> tuple[str, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    def batches(self, task: str, size: int, pixels: Pixels) -> Iterator[EvalBatch]:
        """Cut by position, so the batches do not depend on the number of workers."""
        ...


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
class TarBatch:
    """A batch of rows of one shard's index. `members` says what a sample has beside its image: cls, npy, txt."""

    task: str
    number: int
    folder: Folder
    rows: pl.DataFrame
    members: tuple[str, ...]
    pixels: Pixels

    def read(self) -> Samples:
        shard = self.rows["shard"][0]
        content = (members for _, members in read_samples(self.folder, self.rows))
        where = self.folder.at(f"{shard}.tar")
        return decode(self.rows["key"].to_list(), content, self.members, self.pixels, where, colour="first")


@dataclass(frozen=True)
class TarSet:
    """Names and templates (empty for retrieval) and the index of the shards."""

    folder: Folder
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    members: tuple[str, ...]
    shards: tuple[pl.DataFrame, ...]

    @property
    def num_samples(self) -> int:
        return sum(rows.height for rows in self.shards)

    @property
    def size(self) -> int:
        return self.num_samples

    def batches(self, task: str, size: int, pixels: Pixels) -> Iterator[TarBatch]:
        """No batch crosses a shard."""
        number = 0
        for rows in self.shards:
            for start in range(0, rows.height, size):
                yield TarBatch(task, number, self.folder / SPLIT, rows.slice(start, size), self.members, pixels)
                number += 1


def open_tars(folder: Folder, members: tuple[str, ...], *, classes: bool = True) -> TarSet:
    """Read the small files and walk the tars' headers. DataError names what is missing, truncated or empty."""
    try:
        num_shards = int(folder.read(f"{SPLIT}/nshards.txt"))
    except ValueError as problem:
        raise DataError(f"{folder.at(SPLIT)}/nshards.txt is not a number.") from problem
    tars = [name for name in (folder / SPLIT).files(".tar") if "/" not in name]
    if len(tars) > num_shards:
        raise DataError(
            f"{folder.at(SPLIT)}/nshards.txt says {num_shards} shards and {len(tars)} tars exist, so samples would "
            "be left out: correct the number, or download the set again."
        )
    shards = [index_shard(folder / SPLIT, str(number)) for number in range(num_shards)]
    damaged = [shard for shard in shards if shard.damage]
    if damaged:
        first, more = damaged[0], ", ".join(f"{shard.shard}.tar" for shard in damaged[1:])
        raise DataError(
            f"{folder.at(SPLIT)}/{first.shard}.tar is damaged: {first.damage}; {first.advice}{f' (also {more})' if more else ''}."
        )
    found = TarSet(
        folder,
        _lines(folder, CLASSNAMES) if classes else (),
        _lines(folder, TEMPLATES) if classes else (),
        members,
        tuple(shard.rows for shard in shards),
    )
    if not found.num_samples:
        raise DataError(f"{folder} does not contain a test sample.")
    return found


def _lines(folder: Folder, name: str) -> tuple[str, ...]:
    """The lines that are not blank, stripped. A blank line is not a class: clip-benchmark 1.4, the reference's, drops it."""
    lines = tuple(line.strip() for line in text_of(folder, name).splitlines() if line.strip())
    if not lines:
        raise DataError(f"{folder.at(name)} is empty.")
    return lines


def text_of(folder: Folder, name: str) -> str:
    """A small text file without a byte order mark. DataError if it is not UTF-8."""
    try:
        return folder.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{folder.at(name)} is not UTF-8 text ({problem}); download the set again.") from problem


def decode(
    keys: list[str],
    content: Iterable[dict[str, bytes]],
    wanted: tuple[str, ...],
    pixels: Pixels,
    where: str,
    *,
    colour: Literal["first", "last"],
) -> Samples:
    """Decode samples in order: `content` gives the members of each of `keys`. A fault names the sample and `where` it lies.

    `colour`: webdataset converts to RGB before anything else; `datasets` leaves it to the transform, which does it last. The
    pixels of grey, palette and transparent images differ.
    """
    images = np.empty((len(keys), 3, pixels.height, pixels.width), np.uint8)
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    digest = hashlib.sha256()
    place = 0
    try:
        for members in content:
            images[place] = _decoded(members, pixels, digest, colour)
            for name in wanted:
                found[name].append(_parsed(name, members, digest))
            place += 1
    except DatacompError as problem:
        return Samples(keys, images, found, b"", f"sample {keys[min(place, len(keys) - 1)]} of {where}: {problem}")
    return Samples(keys, images, found, digest.digest())


def _decoded(members: dict[str, bytes], pixels: Pixels, digest: Any, colour: str) -> PixelArray:
    data = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    if data is None:
        raise DataError(f"there is no image (it has {', '.join(sorted(members)) or 'nothing'})")
    digest.update(len(data).to_bytes(8, "big") + data)
    try:
        with open_picture(data) as image:
            return pixels(image.convert("RGB") if colour == "first" else image)
    except Exception as problem:  # Pillow's decoders raise a dozen kinds on bad bytes
        raise DataError(f"cannot decode the image ({type(problem).__name__}: {problem})") from problem


def _parsed(name: str, members: dict[str, bytes], digest: Any) -> Any:
    data = members.get(name)
    if data is None:
        raise DataError(f"there is no {name}")
    digest.update(len(data).to_bytes(8, "big") + data)
    try:
        if name == "cls":
            return int(data)
        if name == "npy":
            return read_npy(data, name)
        if name == "captions":
            return json.loads(data)
        return data.decode("utf-8").splitlines()
    except (ValueError, RecursionError, DataError) as problem:
        raise DataError(f"its {name} cannot be read ({problem})") from problem
