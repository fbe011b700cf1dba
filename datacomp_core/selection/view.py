"""Gives a `GlobalFilter` its incoming rows part by part, a folder that its workers share, and the files for its verdicts."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.driver_files import Exchange
from datacomp_core.errors import DataError
from datacomp_core.filters.base import Mask
from datacomp_core.parallel import process_map
from datacomp_core.pool_source import Block, PoolSource
from datacomp_core.selection.threshold_search import KeyWindow, WindowCounts, count_window, find

if TYPE_CHECKING:
    from datacomp_core.selection.worker_pool import WorkerPool

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class SurvivorView:
    """Rows are known by their place in a part. It pickles, so that work over it can be shared among processes."""

    source: PoolSource
    names: tuple[str, ...]
    path: str
    memory: Exchange
    shared: Exchange
    workers_of_pass: WorkerPool
    workers: int
    num_reached: int = 0

    def reached(self, part: str) -> Mask:
        """Return which rows of a part reach the filter, bool of shape (rows,)."""
        return self.shared.load(f"reached/{part}.npy")

    def note_reached(self, part: str, reached: Mask) -> None:
        self.shared.save(f"reached/{part}.npy", reached)

    def frame(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Columns of the rows that came, with their place as `row`."""
        frame = self.source.read(part, columns).with_row_index("row")
        return frame.filter(pl.Series(self.reached(part)))

    def all_rows(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Columns of all rows of a part, whether they came or not."""
        return self.source.read(part, columns)

    def best(
        self, columns: Iterable[str], values: Callable[[pl.DataFrame], pl.Series], rank: Callable[[int], tuple[int, bool]]
    ) -> float | int | None:
        """The value of the k-th best of the rows that came (see `RankFilter.rank`); None if none passes."""
        wanted = list(columns)

        def every(window: KeyWindow) -> Iterator[WindowCounts]:
            work = partial(_look, self, wanted, values, window)
            if _pickles(values):
                yield from (found for _, found in self.scan(work, self.names))
            else:  # of a custom filter, a function inside a function
                yield from map(work, self.names)

        return find(every, rank)[0].value

    def best_of(
        self, scores: Callable[[T], pl.Series], items: Iterable[T], rank: Callable[[int], tuple[int, bool]]
    ) -> float | int | None:
        """As `best`, of the scores that a function returns for each item; it is called again for each item in each pass."""
        wanted = list(items)
        return find(lambda window: (found for _, found in self.scan(partial(_look_at, scores, window), wanted)), rank)[0].value

    def blocks(self, part: str, key: str) -> Iterator[tuple[npt.NDArray[np.int64], Block]]:
        """`(rows, features (n, d))` of the rows that came and have features, block by block."""
        yield from asked_blocks(self.source, part, key, self.reached(part))

    def decide(self, part: str, yes: npt.NDArray[np.int64], *, unknown: npt.NDArray[np.int64] | None = None) -> None:
        """The rows (by place) that pass; those that cannot be judged; the rest of those that came fail."""
        reach = self.reached(part)
        passed, failed = np.zeros_like(reach), reach.copy()
        passed[yes] = True
        failed[yes] = False
        if unknown is not None:
            failed[unknown] = False
        self.memory.save(verdict_name(part, self.path), packed_verdict(passed & reach, failed & reach))

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        return process_map(function, items, workers=self.workers)

    def scan(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """As `map`, for work that costs little: in threads, unless the pool is large."""
        return self.workers_of_pass.for_columns(function, items)


def _look(
    view: SurvivorView, columns: list[str], values: Callable[[pl.DataFrame], pl.Series], window: KeyWindow, part: str
) -> WindowCounts:
    frame = view.frame(part, columns)
    return count_window(values(frame), frame.height, window)


def _look_at(scores: Callable[[T], pl.Series], window: KeyWindow, item: T) -> WindowCounts:
    values = scores(item)
    return count_window(values, len(values), window)


def _pickles(function: object) -> bool:
    try:
        pickle.dumps(function)
    except Exception:  # pickle raises a dozen kinds
        return False
    return True


def asked_blocks(source: PoolSource, part: str, key: str, asked: Mask) -> Iterator[tuple[npt.NDArray[np.int64], Block]]:
    """`(rows, features)` of the asked rows that have features. DataError if features and metadata are not aligned."""
    start = 0
    for block in source.embeddings(part, key):
        stop = start + len(block)
        if stop > len(asked):
            start = stop
            break
        rows = np.flatnonzero(asked[start:stop])
        rows = rows[np.isfinite(block[rows]).all(axis=1)]
        if len(rows):
            yield rows + start, block[rows]
        start = stop
    if start != len(asked):
        raise DataError(f"Part {part} has {len(asked)} rows of metadata and other {key} features: fetch or embed it again.")


def verdict_name(part: str, path: str) -> str:
    """Where the verdict of the filter at `path` on a part is in the memory."""
    return f"{part}/{path}.npy"


def packed_verdict(yes: Mask, no: Mask, reasons: pl.Series | None = None) -> npt.NDArray[np.uint8]:
    """Two bits a row, and behind them the reasons where the filter tells some: one array, so one request to a bucket."""
    bits = np.packbits(np.stack([yes, no]), axis=1).reshape(-1)
    if reasons is None:
        return bits
    buffer = io.BytesIO()
    reasons.to_frame("reason").write_parquet(buffer)
    return np.concatenate([bits, np.frombuffer(buffer.getvalue(), np.uint8)])


def verdict_of(packed: npt.NDArray[Any], rows: int) -> tuple[Mask, Mask, pl.Series | None]:
    size = -(-rows // 8)
    yes, no = np.unpackbits(packed[: 2 * size].reshape(2, size), axis=1, count=rows).astype(np.bool_)
    told = packed[2 * size :]
    return yes, no, pl.read_parquet(io.BytesIO(told.tobytes())).to_series() if len(told) else None
