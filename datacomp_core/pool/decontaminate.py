"""Finds samples of a download that show an image of the test sets, and makes a subset without them. A perceptual hash (64 bits
of an image's low frequencies, DCT) is compared with the hash of every test image. It finds images that were scaled, saved again
or slightly recoloured; it misses crops, mirror images, rotations and drawn-over images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core import uid
from datacomp_core.artifacts import EvalSets, HoldoutCount, ShardSet, Spec, Subset
from datacomp_core.errors import DataError
from datacomp_core.parallel import process_map
from datacomp_core.pictures import perceptual_hash, pillow_image
from datacomp_core.pool.eval_images import images_of
from datacomp_core.pool.unique_uids import UidRanges, num_buckets, write_subset
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.sample_members import picture_in
from datacomp_core.shards import read_index, read_samples, shard_names
from datacomp_core.store import Folder, Store, step

HITS = "hits.parquet"
SCHEMA = pl.Schema({"uid": pl.String, "shard": pl.String, "test_set": pl.String, "test_key": pl.String, "distance": pl.UInt8})
Hashes = npt.NDArray[np.uint64]


class DecontaminateSpec(Spec):
    """How similar a sample may be to a test image."""

    distance: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Number of the 64 bits that may differ for two images to count as the same; 0: equal hashes.",
    )

    def label(self) -> str:
        return f"decontaminated{self.distance}"


@dataclass(frozen=True)
class EvalImages:
    """Every test image: its hash and its location."""

    hashes: Hashes
    names: list[tuple[str, str]]


@step("subsets", version=1)
def decontaminate(
    spec: DecontaminateSpec,
    shards: ShardSet,
    evalsets: EvalSets,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """`subset.npy`: the uids that do not show a test image; `hits.parquet`: the others, each with the nearest test image. The
    test images' hashes are kept in memory (8 bytes each); shards are read one by one. Images that cannot be decoded are kept and
    counted.
    """
    folder = store.folder(shards)
    tests = hashes_of(store.folder(evalsets))
    names = shard_names(folder)
    progress.start(len(names), "shards")
    hits: dict[str, pl.DataFrame] = {}
    unread = 0
    with UidRanges(num_buckets(shards.num_samples)) as kept:
        for name, (found, clean, bad) in process_map(partial(_judge, spec, folder, tests), names, workers=workers):
            hits[name], unread = found, unread + bad
            kept.add(uid.pack(clean))
            progress.advance()
        rows, unique = write_subset(out, kept.slices())
    table = pl.concat([hits[name] for name in names])
    with out.writing(HITS) as path:
        table.write_parquet(path)
    counts = {
        "clean": rows,
        HoldoutCount.LIKE_A_TEST_IMAGE.value: table.height,
        "not_decoded": unread,
        HoldoutCount.TEST_IMAGES.value: len(tests.hashes),
    }
    return Subset(scale=shards.scale, recipe=spec.label(), num_samples=rows, num_unique=unique, counts=counts)


def hash_of(image: bytes) -> int | None:
    """Return the 64 bits of `perceptual_hash`, or None if the image cannot be decoded."""
    try:
        with pillow_image(image) as opened:
            return int.from_bytes(perceptual_hash(opened), "big")
    except Exception:  # a hostile or broken image may raise anything; it is counted
        return None


def hashes_of(sets: Folder) -> EvalImages:
    """Return the hashes of all images below a folder of test sets (tars in the layout of `wds_*_test`). DataError if there is
    none."""
    hashes: list[int] = []
    names: list[tuple[str, str]] = []
    for name, image in images_of(sets):
        if (found := hash_of(image)) is not None:
            hashes.append(found)
            names.append(name)
    if not hashes:
        raise DataError(f"{sets} has no test images: give a folder of webdataset test sets.")
    return EvalImages(np.array(hashes, np.uint64), names)


def _judge(spec: DecontaminateSpec, folder: Folder, tests: EvalImages, name: str) -> tuple[pl.DataFrame, pl.Series, int]:
    """Return hits, clean uids, and the number of a shard's images that could not be decoded."""
    rows: list[tuple[Any, ...]] = []
    clean: list[str] = []
    unread = 0
    for one, members in read_samples(folder, read_index(folder, name)):
        found = hash_of(picture_in(members))
        unread += found is None
        distances = None if found is None else np.bitwise_count(tests.hashes ^ np.uint64(found))
        if distances is not None and distances.min() <= spec.distance:
            nearest = int(distances.argmin())
            rows.append((one, name, *tests.names[nearest], int(distances[nearest])))
        else:
            clean.append(one)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), pl.Series("uid", clean, pl.String), unread
