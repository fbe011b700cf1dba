"""Partitions rows of many parts into buckets on the local disk, so that related rows are processed together. Every part is
read once and each bucket fits in memory for any pool: only the size on disk grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
Table = dict[str, npt.NDArray[Any]]


class LocalBuckets:
    """`num` buckets of records with the columns `dtypes` (a scalar type, or one with a shape) in files below `folder`."""

    def __init__(self, folder: Path, num: int, record: np.dtype[np.void]) -> None:
        self.folder, self.num, self.record = folder, num, record
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, writer: str, bucket: npt.NDArray[np.int64], columns: Columns) -> None:
        """Append rows to their buckets (n,). `writer` is a name that no other process writes under."""
        if not len(bucket):
            return
        order = np.argsort(bucket, kind="stable")
        records = np.empty(len(bucket), self.record)
        for name, values in columns.items():
            records[name] = values
        records = records[order]
        edges = np.flatnonzero(np.diff(bucket[order])) + 1
        for piece, number in zip(np.split(records, edges), np.unique(bucket), strict=True):
            with (self._folder(int(number)) / f"{writer}.bin").open("ab") as file:
                file.write(piece.tobytes())

    def numbers(self) -> Iterator[int]:
        """Return the non-empty buckets, in order."""
        for number in range(self.num):
            if (self.folder / f"{number:06d}").exists():
                yield number

    def read(self, number: int) -> npt.NDArray[np.void]:
        """All records of a bucket, in the order of writers' names and of each one's appends."""
        files = sorted((self.folder / f"{number:06d}").iterdir()) if (self.folder / f"{number:06d}").exists() else []
        return np.concatenate([np.empty(0, self.record), *[np.fromfile(file, self.record) for file in files]])

    def _folder(self, number: int) -> Path:
        folder = self.folder / f"{number:06d}"
        folder.mkdir(exist_ok=True)
        return folder
