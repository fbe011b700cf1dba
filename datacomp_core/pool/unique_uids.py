"""Keeps the uids of many shards on scratch disk, in ranges that fit into memory, to sort or deduplicate them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np

from datacomp_core import uid
from datacomp_core.parallel import concurrently
from datacomp_core.shards import read_index
from datacomp_core.store.folder import Folder

UIDS_IN_MEMORY = 1 << 24
MAX_BUCKETS = 512
SUBSET = "subset.npy"


def num_buckets(about: int) -> int:
    """Return the number of ranges for `about` this many uids."""
    return max(1, min(MAX_BUCKETS, about // UIDS_IN_MEMORY))


class UidRanges:
    """Uids in files by ranges of their high word. A context; `number` files are open at once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []
        for _ in range(number):
            self._files.append(self._stack.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115 - the stack closes it

    def __enter__(self) -> UidRanges:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, packed: uid.Uids) -> None:
        bucket = (packed["f0"] >> np.uint64(32)) * np.uint64(self.number) >> np.uint64(32)
        for one in np.unique(bucket):
            self._files[one].write(packed[bucket == one].tobytes())

    def slices(self) -> Iterator[uid.Uids]:
        """Yield everything added, sorted, repeats kept, one range at a time."""
        for file in self._files:
            file.seek(0)
            yield uid.sort(np.frombuffer(file.read(), uid.DTYPE))


def spread_of(shards: Folder, names: Sequence[str], number: int) -> UidRanges:
    """The uids of the indexes of the shards `names`."""
    spread = UidRanges(number)
    for rows in concurrently(lambda name: read_index(shards, name), names):
        spread.add(uid.pack(rows["uid"]))
    return spread


def num_unique(shards: Folder, names: Sequence[str], about: int) -> int:
    """Count distinct uids in the indexes of the shards `names`; `about` is their approximate number."""
    with spread_of(shards, names, num_buckets(about)) as spread:
        return sum(uid.num_unique(rows) for rows in spread.slices())


def write_subset(out: Folder, slices: Iterable[uid.Uids]) -> tuple[int, int]:
    """`subset.npy` of slices that are sorted and follow each other: `(rows, distinct uids)`. The bytes of `uid.subset_bytes`."""
    rows = unique = 0
    with out.writing(SUBSET) as path, path.open("wb") as file:
        _header(file, 0)
        for some in slices:
            rows, unique = rows + len(some), unique + uid.num_unique(some)
            file.write(some.tobytes())
        file.seek(0)
        _header(file, rows)  # as long as the first: numpy leaves room for the number
    return rows, unique


def _header(file: IO[bytes], rows: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(uid.DTYPE), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)
