"""Distinct uids of many shards, from their indexes, by way of buckets on scratch disk: they need not fit into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import numpy as np

from datacomp_core import uid
from datacomp_core.shards import read_index
from datacomp_core.store.folder import Folder

T = TypeVar("T")
R = TypeVar("R")
READERS = 16
UIDS_IN_MEMORY = 1 << 24
MAX_BUCKETS = 512


def read_ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`function` of each item in order, by threads that are never far ahead: for many small files of a bucket."""
    with ThreadPoolExecutor(READERS) as readers:
        for begin in range(0, len(items), 4 * READERS):
            yield from readers.map(function, items[begin : begin + 4 * READERS])


def num_unique(shards: Folder, names: Sequence[str], about: int) -> int:
    """Distinct uids in the indexes of the shards `names`, of which there are `about` so many."""
    number = max(1, min(MAX_BUCKETS, about // UIDS_IN_MEMORY))
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(number)]
        for rows in read_ahead(lambda name: read_index(shards, name), names):
            packed = uid.pack(rows["uid"])
            bucket = (packed["f0"] >> np.uint64(32)) * np.uint64(number) >> np.uint64(32)
            for one in np.unique(bucket):
                files[one].write(packed[bucket == one].tobytes())
        unique = 0
        for file in files:
            file.seek(0)
            unique += uid.num_unique(uid.sort(np.frombuffer(file.read(), uid.DTYPE)))
        return unique
