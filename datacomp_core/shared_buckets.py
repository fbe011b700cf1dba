"""Rows of many parts sorted into buckets where all workers reach them, so that what belongs together is looked at together.

What one call writes is one file: the places of its buckets, then its rows in order of bucket. So every part is read once, and a
bucket is one range of each file. Each bucket fits in memory, whatever the size of the pool. Many buckets of many files would be a
request for each pair, so `regrouped` first brings the rows of neighbouring buckets together: requests then grow with the number
of files times the root of the number of buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.store import Folder, listing

EDGE = np.dtype("<i8")
FILES_AT_ONCE = 512
BYTES_AT_ONCE = 128 << 20
"""Of the rows that a worker brings together, beside the sorted copy of them."""
RANGES_WORTH_REGROUPING = 1 << 20
ROW = np.dtype([("row", "i8")])
"""A record of what was found out about a row, in the bucket of its part."""
ROWS, GROUPS = "rows", "groups"


class FileBatch(NamedTuple):
    """Files, from `first` to before `last` of their sorted names, whose rows of one group of buckets are brought together."""

    group: int
    number: int
    first: int
    last: int


class SharedBuckets:
    """`num` buckets of records with the columns `record` (scalar types, or with a shape) in files below `folder`. It pickles.

    `width`: how many neighbouring buckets make a group, once they have been brought together; 0 before.
    """

    def __init__(self, folder: Folder, num: int, record: np.dtype[np.void], width: int = 0) -> None:
        self.folder, self.num, self.record, self.width = folder, num, record, width
        self._names: tuple[str, list[str]] = "", []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_names": ("", [])}

    def add(self, writer: str, bucket: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write rows with their buckets (n,). `writer` is a name of this call alone; a worker's second try may repeat it."""
        records = np.empty(len(bucket), self.record)
        for name, values in columns.items():
            records[name] = values
        _write(self.folder / ROWS, writer, bucket, records, self.num)

    def read(self, number: int) -> npt.NDArray[np.void]:
        """All records of a bucket, in the order of writers' names and of each one's rows. For when all is written."""
        below, first, num = ROWS, 0, self.num
        if self.width:
            group = number // self.width
            below, first, num = f"{GROUPS}/{group:06d}", group * self.width, self.width
        found = self._of_files(below, self._names_in(below), number - first, number - first + 1, num)
        return np.concatenate([np.empty(0, self.record), *(rows for _, rows in found)])

    def regrouped(
        self, over: Callable[[Callable[[FileBatch], None], list[FileBatch]], Iterable[tuple[FileBatch, None]]]
    ) -> SharedBuckets:
        """Itself, or with buckets brought together if there are many of many files; `over` maps a function over workers."""
        sizes = _listed(self.folder / ROWS)
        if len(sizes) <= FILES_AT_ONCE or len(sizes) * self.num < RANGES_WORTH_REGROUPING:
            return self
        width = math.isqrt(self.num - 1) + 1
        for _ in over(partial(_bring_together, self, width), list(_batches(list(sizes.values()), self.num, width))):
            pass
        (self.folder / ROWS).remove()
        return SharedBuckets(self.folder, self.num, self.record, width)

    def _names_in(self, below: str) -> list[str]:
        if self._names[0] != below:
            self._names = below, list(_listed(self.folder / below))
        return self._names[1]

    def _of_files(
        self, below: str, names: list[str], first: int, last: int, num: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]]:
        """Of each file with `num` buckets: where its buckets `first` to before `last` begin and end, and their rows."""
        folder, size, head = self.folder / below, EDGE.itemsize, (num + 1) * EDGE.itemsize
        for begin in range(0, len(names), FILES_AT_ONCE):
            some = names[begin : begin + FILES_AT_ONCE]
            read = folder.read_ranges([(name, first * size, (last + 1) * size) for name in some])
            places = [np.frombuffer(edges, EDGE) for edges in read]
            wanted = [
                (name, *(head + edges[[0, -1]] * self.record.itemsize).tolist())
                for name, edges in zip(some, places, strict=True)
                if edges[-1] > edges[0]
            ]
            rows = iter(folder.read_ranges(wanted) if wanted else [])
            for edges in places:
                if edges[-1] > edges[0]:
                    yield edges - edges[0], np.frombuffer(next(rows), self.record)


def _listed(folder: Folder) -> dict[str, int]:
    """Files that are written, with their sizes. Rows of a file that a listing leaves out would be lost silently."""
    return listing.ask_until_equal(partial(folder.files, ".bin"), folder)


def _write(folder: Folder, writer: str, bucket: npt.NDArray[np.int64], records: npt.NDArray[np.void], num: int) -> None:
    if not len(bucket):
        return
    order = np.argsort(bucket, kind="stable")
    edges = np.searchsorted(bucket[order], np.arange(num + 1)).astype(EDGE)
    folder.write(f"{writer}.bin", edges.tobytes() + records[order].tobytes())


def _batches(sizes: list[int], num: int, width: int) -> Iterator[FileBatch]:
    """For each group of buckets the files in runs that a worker holds at once."""
    num_groups = -(-num // width)
    starts, held = [0], 0
    for place, size in enumerate(sizes):
        held += size
        is_full = place - starts[-1] >= FILES_AT_ONCE or held > BYTES_AT_ONCE * num_groups
        if is_full and place > starts[-1]:
            starts.append(place)
            held = size
    for group in range(num_groups):
        for number, (first, last) in enumerate(zip(starts, [*starts[1:], len(sizes)], strict=True)):
            yield FileBatch(group, number, first, last)


def _bring_together(buckets: SharedBuckets, width: int, batch: FileBatch) -> None:
    """Write the rows of a group's buckets that are in some files as one file."""
    first = batch.group * width
    last = min(first + width, buckets.num)
    names = buckets._names_in(ROWS)[batch.first : batch.last]  # pyright: ignore[reportPrivateUsage] - of the same file
    found = list(buckets._of_files(ROWS, names, first, last, buckets.num))  # pyright: ignore[reportPrivateUsage]
    if not found:
        return
    bucket = np.concatenate([np.repeat(np.arange(last - first), np.diff(edges)) for edges, _ in found])
    records = np.concatenate([rows for _, rows in found])
    folder = buckets.folder / f"{GROUPS}/{batch.group:06d}"
    _write(folder, f"{batch.number:06d}", bucket, records, width)
