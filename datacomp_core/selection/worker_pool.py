"""Chooses who makes a pass over the parts of a pool: threads of this process, or processes, possibly on other machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from datacomp_core import engines
from datacomp_core.filters.base import FeatureFilter, Filter
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.parallel import process_map
from datacomp_core.selection.filter_evaluator import cost_of

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4
"""More of them wait for Python's lock."""
ROWS_FOR_PROCESSES = 50_000_000
COSTLY_ROWS_FOR_A_PROCESS = 100_000
COSTLIEST_ROWS_FOR_A_PROCESS = 10_000


@dataclass(frozen=True)
class WorkerPool:
    """The processes that make a pass. Starting one takes a second, in which this process reads millions of rows."""

    workers: int
    num_rows: int

    def for_columns(self, function: Callable[[T], R], names: Iterable[T]) -> Iterator[tuple[T, R]]:
        """A pass over a column of numbers, or with filters that cost nothing: threads do, but for many rows and hands."""
        is_wide = engines.current() != "local" or self.workers > THREADS
        if is_wide and self.num_rows >= ROWS_FOR_PROCESSES:
            yield from process_map(function, names, workers=self.workers)
            return
        flying = deque[tuple[T, Future[R]]]()
        with ThreadPoolExecutor(min(self.workers, THREADS)) as pool:
            for name in names:
                flying.append((name, pool.submit(_told, function, name)))
                if len(flying) >= 2 * THREADS:
                    yield _landed(*flying.popleft())
            while flying:
                yield _landed(*flying.popleft())

    def for_filters(self, tree: Filter, function: Callable[[T], R], names: Sequence[T]) -> Iterator[tuple[T, R]]:
        """A pass with all filters; costly filters are about a hundred times slower and hold Python's lock."""
        if cost_of(tree):
            return process_map(function, names, workers=self.costly_processes(tree))
        return self.for_columns(function, names)

    def costly_processes(self, tree: Filter) -> int:
        """Filters of embeddings and global filters are the costliest."""
        costliest = cost_of(tree) >= FeatureFilter.cost
        rows = COSTLIEST_ROWS_FOR_A_PROCESS if costliest else COSTLY_ROWS_FOR_A_PROCESS
        return min(self.workers, max(1, self.num_rows // rows))


def _told(function: Callable[[T], R], name: T) -> R:
    with explain_import_errors():
        return function(name)


def _landed(name: T, work: Future[R]) -> tuple[T, R]:
    return name, work.result()
