"""Treats faces while copying: blurs them, for pools downloaded without blur, or adds their boxes to the json for a later blur.

Boxes come from the pool's metadata (`face_bboxes`, shares of width and height). As in the reference's resharder
(`--apply-blur`, `--inject-blur-metadata`) the blur is img2dataset's and a blurred image is a webp instead of its jpg;
samples without faces keep their bytes. A chosen sample that is missing in the metadata is an error: it could show a face.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from datacomp_core import parts, uid
from datacomp_core.artifacts import Spec
from datacomp_core.driver_files import Reachable, exchange, reachable
from datacomp_core.errors import DataError
from datacomp_core.machine_cache import CachedFile
from datacomp_core.parallel import prepared_map
from datacomp_core.resharding.plan import Positions, Rows, locate
from datacomp_core.sample_members import USUAL
from datacomp_core.shards import parse_sample
from datacomp_core.store.folder import Folder, scratch
from datacomp_core.tar import BLOCK, header

PARTS_WORTH_A_PROCESS = 8
SEEN = 1  # of `FaceBoxes.place`: in the metadata, without a face; larger values lead to the boxes, 0 is in no part


class FaceSpec(Spec):
    """Defines how samples with faces are treated."""

    treatment: Literal["blur", "inject", "blur_and_inject"] = Field(
        default="blur", description="blur: blur the image there; inject: add `face_bboxes` to the json; or both."
    )
    quality: int = Field(default=100, ge=1, le=100, description="Quality of the webp of a blurred image.")

    def label(self) -> str:
        return f"faces-{self.treatment}"


@dataclass(frozen=True)
class FaceEdits:
    """The boxes of one job's rows: row n has `boxes[starts[n]:starts[n + 1]]`, each left, top, right, bottom."""

    spec: FaceSpec
    starts: Positions
    boxes: Any

    def concern(self, row: int) -> bool:
        return bool(self.starts[row + 1] > self.starts[row])

    def edit(self, row: int, data: bytes, key: str) -> bytes:
        """The framed sample with its faces treated. DataError if its image or its json cannot be read."""
        members, boxes = parse_sample(data), self.boxes[self.starts[row] : self.starts[row + 1]].tolist()
        if self.spec.treatment != "inject":
            kind = USUAL.picture_of(members)
            if not kind:
                raise DataError(f"Sample {key} has faces according to the metadata, but no image: download its shard again.")
            blurred = _blurred(members[kind], boxes, self.spec.quality, key)
            members = {
                ("webp" if name == kind else name): blurred if name == kind else content for name, content in members.items()
            }
        if self.spec.treatment != "blur":
            members["json"] = _injected(members.get("json", b""), boxes, key)
        framed = [(header(f"{key}.{name}", len(c)), c, bytes(-len(c) % BLOCK)) for name, c in members.items()]
        return b"".join(piece for member in framed for piece in member)


def _injected(data: bytes, boxes: list[list[float]], key: str) -> bytes:
    try:
        return json.dumps({**json.loads(data), "face_bboxes": boxes}).encode()
    except (ValueError, TypeError, RecursionError) as problem:
        raise DataError(f"The json of sample {key} cannot be read ({problem}): download its shard again.") from problem


def _blurred(data: bytes, boxes: list[list[float]], quality: int, key: str) -> bytes:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise DataError(f"The image of sample {key} cannot be decoded, so its faces cannot be blurred: download its shard again.")
    blurred = _blurrer()(image, boxes)
    if blurred.ndim == 2:  # webp has no grey images
        blurred = cv2.cvtColor(blurred, cv2.COLOR_GRAY2BGR)
    done, encoded = cv2.imencode(".webp", blurred, [int(cv2.IMWRITE_WEBP_QUALITY), quality])
    assert done, f"{key} was not encoded"
    return encoded.tobytes()


@cache
def _blurrer() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations contacts its update server on import
    from img2dataset.blurrer import BoundingBoxBlurrer

    return BoundingBoxBlurrer()


# Boxes from the metadata ---------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Chosen samples of one part: their first positions in the subset, how many boxes each has, all coordinates in a row."""

    first: Positions
    number: Positions
    coordinates: Any


class _Wanted(NamedTuple):
    metadata: Folder
    subset: uid.Uids
    held: CachedFile


def _wanted(metadata: Folder, subset: Reachable) -> _Wanted:
    held = CachedFile(*subset)
    return _Wanted(metadata, np.load(held.path, mmap_mode="r", allow_pickle=False), held)


def _find(wanted: _Wanted, part: str) -> _Found:
    try:
        table = parts.scan(wanted.metadata, part).select("uid", "face_bboxes").collect()
    except pl.exceptions.ColumnNotFoundError as problem:
        raise DataError(
            f"{wanted.metadata.at(part)}.parquet has no column face_bboxes, so faces are unknown: fetch metadata "
            "with this column."
        ) from problem
    first, count = locate(wanted.subset, uid.pack(table["uid"]))
    chosen = np.flatnonzero(count > 0)
    boxes = table["face_bboxes"][chosen]
    number = boxes.list.len().fill_null(0).to_numpy().astype(np.int64)
    coordinates = boxes.filter(pl.Series(number > 0)).explode().explode().to_numpy().astype(np.float64)
    if len(coordinates) != 4 * number.sum():
        raise DataError(f"{wanted.metadata.at(part)}.parquet has face boxes that are not four numbers: fetch the metadata again.")
    return _Found(first[chosen], number, coordinates)


class FaceBoxes:
    """The boxes of all chosen samples on scratch disk: `place[p]` leads from a position in the subset to [number, boxes...]."""

    def __init__(self, spec: FaceSpec, subset: uid.Uids, folder: Path) -> None:
        self.spec, self.subset = spec, subset
        self._place = np.memmap(folder / "place", np.int64, "w+", shape=(len(subset),))
        self._path = folder / "boxes"
        self._flat: Any = None

    def fill(self, found: Iterable[_Found]) -> None:
        end = 0
        with self._path.open("wb") as file:
            for part in found:
                self._place[part.first[part.number == 0]] = SEEN
                faces = np.flatnonzero(part.number)
                number = part.number[faces]
                sizes = 1 + 4 * number
                starts = np.cumsum(sizes) - sizes
                flat = np.empty(int(sizes.sum()), np.float64)
                is_number = np.zeros(len(flat), np.bool_)
                is_number[starts] = True
                flat[is_number], flat[~is_number] = number, part.coordinates
                self._place[part.first[faces]] = SEEN + 1 + end + starts
                flat.tofile(file)
                end += len(flat)
        self._flat = np.memmap(self._path, np.float64, "r") if end else np.empty(0)

    def of(self, rows: Rows) -> FaceEdits:
        """The boxes of some rows. DataError if the metadata does not know all of them."""
        packed = np.empty(len(rows), uid.DTYPE)
        packed["f0"], packed["f1"] = rows["f0"], rows["f1"]
        place = np.asarray(self._place[locate(self.subset, packed)[0]])
        if unseen := int((place == 0).sum()):
            raise DataError(
                f"{unseen} of {len(rows)} samples of a new shard are not in the metadata, so it is unknown whether they show "
                f"faces (uid {uid.unpack(packed[place == 0][:1])[0]}): give the metadata of the whole pool."
            )
        at = place - SEEN - 1
        number = np.where(at >= 0, self._flat[at], 0).astype(np.int64) if len(self._flat) else np.zeros(len(rows), np.int64)
        starts = np.concatenate(([0], np.cumsum(number)))
        pieces = [self._flat[begin + 1 : begin + 1 + 4 * n] for begin, n in zip(at.tolist(), number.tolist(), strict=True) if n]
        return FaceEdits(self.spec, starts, np.concatenate(pieces or [np.empty(0)]).reshape(-1, 4))


@contextmanager
def boxes_of(
    spec: FaceSpec, metadata: Folder, subset: Path, where: str, *, near: Folder | None = None, workers: int
) -> Generator[FaceBoxes]:
    """The boxes of a subset's samples, gathered part by part. `subset` is the local copy of the file at `where`."""
    names = parts.part_names(metadata)
    with scratch() as folder, exchange(near) as shared:
        boxes = FaceBoxes(spec, uid.open_subset(subset), folder)
        workers = min(workers, 1 + len(names) // PARTS_WORTH_A_PROCESS)
        found = prepared_map(_find, names, prepare=partial(_wanted, metadata, reachable(shared, where, subset)), workers=workers)
        boxes.fill(part for _, part in found)
        yield boxes
