"""An index over all features of a pool on disk: inverted lists of 8-bit codes (faiss), mapped and not loaded when it is searched.

Parts are added one by one, each in a file of its own until all are there, so that an interrupted run goes on; then they are
merged. A vector's number is its row's place in the pool: the rows of the parts in order of name.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.explore.layout import known_rows
from datacomp_core.explore.search import unit_query
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store.local import replacing
from datacomp_core.vectors.files import unit

TRAINED, MERGED, LISTS, DONE = "trained.index", "merged.index", "merged.ivfdata", "index.json"
LIST_ROWS = 64
"""Training vectors a list."""
MAX_LISTS = 1 << 16
PROBES = 32


class PoolNeighbor(NamedTuple):
    """A row of the pool and its cosine, to the precision of 8-bit codes."""

    part: str
    row: int
    score: float


@dataclass(frozen=True)
class PoolIndex:
    """A merged index; `starts` are the numbers of the first rows of `parts`."""

    index: Any
    parts: tuple[str, ...]
    starts: tuple[int, ...]
    num_vectors: int

    def search(self, query: npt.NDArray[np.floating], count: int) -> list[PoolNeighbor]:
        """About the nearest rows of the pool, the nearest first."""
        scores, numbers = self.index.search(unit_query(query, self.index.d)[None], count)
        return [self._place(int(n), float(score)) for n, score in zip(numbers[0], scores[0], strict=True) if n >= 0]

    def _place(self, number: int, score: float) -> PoolNeighbor:
        part = bisect_right(self.starts, number) - 1
        return PoolNeighbor(self.parts[part], number - self.starts[part], score)


def is_built(folder: Path) -> bool:
    return (folder / DONE).exists()


def build(
    source: PoolSource, key: str, sampled: npt.NDArray[np.float16], folder: Path, *, progress: Progress = NO_PROGRESS
) -> PoolIndex:
    """The index of the array `key` over all parts in `folder`; `sampled` features train its lists."""
    if is_built(folder):
        return open_index(folder)
    import faiss

    folder.mkdir(parents=True, exist_ok=True)
    names = source.parts()
    counts = [source.num_rows(name) for name in names]
    starts = [0, *accumulate(counts)][:-1]
    if not (folder / TRAINED).exists():
        _train(sampled, sum(counts), folder)
    progress.start(sum(counts), "rows")
    for name, start, rows in zip(names, starts, counts, strict=True):
        block = folder / f"{name}.index"
        if not block.exists():
            index: Any = faiss.read_index(str(folder / TRAINED))
            _add(index, source, name, key, start)
            _put(index, block)
        progress.advance(rows)
    merged: Any = faiss.read_index(str(folder / TRAINED))
    _merge(merged, [folder / f"{name}.index" for name in names], folder / LISTS)
    _put(merged, folder / MERGED)
    told = {"parts": names, "starts": starts, "num_vectors": int(merged.ntotal)}
    with replacing(folder / DONE) as temporary:
        temporary.write_text(json.dumps(told), encoding="utf-8")
    for name in names:
        (folder / f"{name}.index").unlink()
    return open_index(folder)


def open_index(folder: Path) -> PoolIndex:
    """An index that was built before, its lists mapped from disk."""
    import faiss

    told = json.loads((folder / DONE).read_text(encoding="utf-8"))
    index: Any = faiss.read_index(str(folder / MERGED))
    index.nprobe = min(PROBES, index.nlist)
    return PoolIndex(index, tuple(told["parts"]), tuple(told["starts"]), told["num_vectors"])


def _train(sampled: npt.NDArray[np.float16], num_pool: int, folder: Path) -> None:
    import faiss

    rows = known_rows(sampled)
    lists = max(1, min(int(4 * np.sqrt(num_pool)), MAX_LISTS, len(rows) // 40))
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: LIST_ROWS * lists])
    size = sampled.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(size), size, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid = 1  # it prints a warning if there are fewer
    index.train(unit(sampled[rows[chosen]].astype(np.float32)))
    _put(index, folder / TRAINED)


def _add(index: Any, source: PoolSource, part: str, key: str, start: int) -> None:
    if not source.has_embeddings(part, key):
        return
    for block in source.embeddings(part, key):
        rows = known_rows(block)
        if len(rows):
            index.add_with_ids(unit(block[rows].astype(np.float32)), rows + start)
        start += len(block)


def _merge(empty: Any, blocks: Sequence[Path], lists: Path) -> None:
    """All lists of the blocks in one file that is mapped when it is searched."""
    from faiss.contrib.ondisk import merge_ondisk

    lists.unlink(missing_ok=True)
    with _without_printing():
        merge_ondisk(empty, [str(block) for block in blocks], str(lists))


@contextmanager
def _without_printing() -> Generator[None]:
    """Discard standard output: faiss always prints the size of the file of lists from C++."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _put(index: Any, path: Path) -> None:
    import faiss

    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
