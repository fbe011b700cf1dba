"""Plans a reshard: which byte range becomes which sample of which output shard. Reads indices, never images.

A subset is sorted, so a chosen sample is a position in it, and a repeat is the next position: copy 0, 1, 2... Its place in
the output is decided by a hash of seed, uid and copy alone, so neither workers nor the pool's sharding move it. Rows are
bucketed by that hash on scratch disk: memory is limited to the bucket and one byte per chosen sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from datacomp_core.uid import Positions, locate

__all__ = ["locate"]

ROW = np.dtype([("f0", "u8"), ("f1", "u8"), ("copy", "u4"), ("shard", "u4"), ("offset", "i8"), ("length", "i8"), ("key", "u4")])
"""One sample to write: its uid, which copy of it, where it is (`shard` is a position in the list of shards), and the crc32 of
the key that it has there, by which its bytes are known again."""

BUCKET_ROWS = 4_000_000
MAX_BUCKETS = 512

Rows = npt.NDArray[np.void]


def repeat(rows: Rows, count: Positions) -> Rows:
    """Return each row as often as it was chosen, with `copy` counted up from the row's value."""
    repeated = np.repeat(rows, count)
    begins = np.cumsum(count) - count
    repeated["copy"] += (np.arange(len(repeated)) - np.repeat(begins, count)).astype(np.uint32)
    return repeated


def shuffle_keys(rows: Rows, seed: int) -> npt.NDArray[np.uint64]:
    """The sort key of each row in a shuffle: 64 random bits by seed, uid and copy."""
    state = _mix(rows["f0"] ^ _mix(np.full(len(rows), seed, np.uint64)))
    return _mix(_mix(state ^ rows["f1"]) ^ rows["copy"].astype(np.uint64))


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finalizer (Steele, Lea and Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class SortBuckets:
    """Rows on scratch disk, by the leading part of their sort key, in files without a name: a kill leaves nothing behind."""

    def __init__(self, num_rows: int, num_shards: int, seed: int, shuffle: Literal["global", "none"]) -> None:
        self.seed, self.shuffle = seed, shuffle
        self.number = max(1, min(MAX_BUCKETS, -(-num_rows // BUCKET_ROWS)))
        self.num_shards = num_shards
        self.num_bytes = 0
        with ExitStack() as stack:
            self._files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self.number)]
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rows: Rows) -> None:
        self.num_bytes += int(rows["length"].sum())
        if self.number == 1:
            rows.tofile(self._files[0])
            return
        bucket = self._bucket(rows)
        for one in np.unique(bucket):
            rows[bucket == one].tofile(self._files[one])

    def _bucket(self, rows: Rows) -> npt.NDArray[np.uint64]:
        if self.shuffle == "none":
            return rows["shard"].astype(np.uint64) * np.uint64(self.number) // np.uint64(self.num_shards)
        return (shuffle_keys(rows, self.seed) >> np.uint64(32)) * np.uint64(self.number) >> np.uint64(32)

    def sorted(self) -> Iterator[Rows]:
        """All rows in their final order, bucket by bucket; no two of them may be the same copy of one uid."""
        for file in self._files:
            file.seek(0)
            rows = np.fromfile(file, ROW)
            yield rows[self._sorting(rows)]

    def _sorting(self, rows: Rows) -> Positions:
        if self.shuffle == "none":
            return np.lexsort((rows["copy"], rows["offset"], rows["shard"]))
        keys = shuffle_keys(rows, self.seed)
        by_key = np.argsort(keys, kind="stable")
        if np.any(keys[by_key][1:] == keys[by_key][:-1]):
            return np.lexsort((rows["copy"], rows["f1"], rows["f0"], keys))
        return by_key


def shard_sizes(total: int, samples_per_shard: int) -> Iterator[int]:
    """Samples of each shard: as few shards as hold `total`, equal in size to within one."""
    number = -(-total // samples_per_shard)
    for shard in range(number):
        yield total * (shard + 1) // number - total * shard // number


def cut_shards(rows: Iterator[Rows], total: int, samples_per_shard: int) -> Iterator[Rows]:
    """Cut `total` rows into shards of `shard_sizes`."""
    number = -(-total // samples_per_shard)
    sizes = shard_sizes(total, samples_per_shard)
    shard, held, size = 0, np.empty(0, ROW), next(sizes, 0)
    for some in rows:
        held, begin = np.concatenate((held, some)), 0
        while shard < number:
            if len(held) - begin < size:
                break
            yield held[begin : begin + size]
            shard, begin, size = shard + 1, begin + size, next(sizes, 0)
        held = held[begin:]
    assert shard == number, f"{shard} of {number} shards were planned"
    assert not len(held), f"{len(held)} rows of the plan are left over"
