"""Rows of many parts sorted into buckets where all workers reach them, so that what belongs together is looked at together.

What one call writes is one file: the places of its buckets, then its rows in order of bucket. So every part is read once, and a
bucket is one range of each file. Each bucket fits in memory, whatever the size of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.store import Folder

EDGE = np.dtype("<i8")
FILES_AT_ONCE = 512


class SharedBuckets:
    """`num` buckets of records with the columns `record` (scalar types, or with a shape) in files below `folder`. It pickles."""

    def __init__(self, folder: Folder, num: int, record: np.dtype[np.void]) -> None:
        self.folder, self.num, self.record = folder, num, record
        self._names: list[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_names": None}

    def add(self, writer: str, bucket: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write rows with their buckets (n,). `writer` is a name of this call alone; a worker's second try may repeat it."""
        if not len(bucket):
            return
        order = np.argsort(bucket, kind="stable")
        records = np.empty(len(bucket), self.record)
        for name, values in columns.items():
            records[name] = values[order]
        edges = np.searchsorted(bucket[order], np.arange(self.num + 1)).astype(EDGE)
        self.folder.write(f"{writer}.bin", edges.tobytes() + records.tobytes())

    def read(self, number: int) -> npt.NDArray[np.void]:
        """All records of a bucket, in the order of writers' names and of each one's rows. For when all is written."""
        if self._names is None:
            self._names = [name for name in self.folder.files(".bin") if "/" not in name]
        found = [np.empty(0, self.record)]
        for first in range(0, len(self._names), FILES_AT_ONCE):
            found += self._of_files(self._names[first : first + FILES_AT_ONCE], number)
        return np.concatenate(found)

    def _of_files(self, names: list[str], number: int) -> list[npt.NDArray[np.void]]:
        size, head = EDGE.itemsize, (self.num + 1) * EDGE.itemsize
        places = self.folder.read_ranges([(name, number * size, (number + 2) * size) for name in names])
        wanted: list[tuple[str, int, int]] = []
        for name, edges in zip(names, places, strict=True):
            start, stop = (head + np.frombuffer(edges, EDGE) * self.record.itemsize).tolist()
            if stop > start:
                wanted.append((name, start, stop))
        return [np.frombuffer(data, self.record) for data in (self.folder.read_ranges(wanted) if wanted else [])]
