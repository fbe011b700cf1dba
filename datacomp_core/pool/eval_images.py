"""Reads the images of test sets for comparisons with a pool: tars in the layout of `wds_*_test`, below one folder."""

from __future__ import annotations

from collections.abc import Iterator

from datacomp_core.sample_members import picture_in
from datacomp_core.shards import index_shard, read_samples
from datacomp_core.store import Folder


def images_of(sets: Folder) -> Iterator[tuple[tuple[str, str], bytes]]:
    """`((test set, key), image)` of every test image."""
    for path in sets.files(".tar"):
        place, _, name = path.rpartition("/")
        folder = sets / place
        rows = index_shard(folder, name.removesuffix(".tar")).whole()
        for key, (_, members) in zip(rows["key"], read_samples(folder, rows), strict=True):
            image = picture_in(members)
            if image:
                yield (place.split("/")[0], str(key)), image
