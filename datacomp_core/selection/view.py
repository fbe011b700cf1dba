"""What a `Survey` sees: the rows that came to it, part by part, a place on the local disk, and where its verdicts go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.filters.base import Mask
from datacomp_core.parallel import process_map
from datacomp_core.selection.threshold_search import Look, Window, find, look
from datacomp_core.source import Block, Source

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class View:
    """Rows are known by their place in a part. It pickles, so that work over it can be shared among processes."""

    source: Source
    names: tuple[str, ...]
    path: str
    memory: Path
    local: Path
    workers: int

    def reached(self, part: str) -> Mask:
        """Which rows of a part came to the filter, shape (rows,)."""
        return np.load(self.reached_file(part))

    def reached_file(self, part: str) -> Path:
        return self.local / "reached" / f"{part}.npy"

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
        """The value of the k-th best of the rows that came (see `Ranked.rank`); None if none passes."""
        wanted = list(columns)

        def every(window: Window) -> Iterator[Look]:
            for part in self.names:
                frame = self.frame(part, wanted)
                yield look(values(frame), frame.height, window)

        return find(every, rank)[0].value

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
        write_verdict(self.memory / part / f"{self.path}.npy", passed & reach, failed & reach)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        return process_map(function, items, workers=self.workers)


def asked_blocks(source: Source, part: str, key: str, asked: Mask) -> Iterator[tuple[npt.NDArray[np.int64], Block]]:
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


def write_verdict(path: Path, yes: Mask, no: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.packbits(np.stack([yes, no]), axis=1))


def read_verdict(path: Path, rows: int) -> tuple[Mask, Mask]:
    yes, no = np.unpackbits(np.load(path), axis=1, count=rows).astype(np.bool_)
    return yes, no
