"""What has to be known of the whole pool before a part can be judged: the cuts of what ranks, the verdicts of surveys.

Each is found after those before it, by passes over the parts in which only as many columns are read as it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from datacomp_core import engines
from datacomp_core.filters.base import FeatureBatch, Filter, Lookup, Mask, Ranked, Survey
from datacomp_core.filters.sample_to import SampleTo
from datacomp_core.parallel import process_map
from datacomp_core.progress import Progress
from datacomp_core.selection.judge import Judge, Placed, cost_of, walk
from datacomp_core.selection.part import Judged
from datacomp_core.selection.threshold_search import FEW, Cut, Look, Window, find, look
from datacomp_core.selection.view import View
from datacomp_core.source import Source
from datacomp_core.store import Folder

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4
"""More of them wait for Python's lock."""
ROWS_FOR_PROCESSES = 50_000_000
COSTLY_ROWS_FOR_A_PROCESS = 100_000
COSTLIEST_ROWS_FOR_A_PROCESS = 10_000


@dataclass(frozen=True)
class Place:
    """Where a selection works: a local folder, and one kept between attempts, in which finished parts lie."""

    local: Path
    kept: Folder | None

    @property
    def runs(self) -> Path:
        return self.local / "runs"

    @property
    def found(self) -> Path:
        """Runs of the uids that each list has, by the path of its filter."""
        return self.local / "found"

    @property
    def memory(self) -> Path:
        return self.local / "memory"

    @property
    def prepared(self) -> Path:
        return self.local / "prepared"

    def fetch(self, part: str, lookups: Sequence[str] = ()) -> Judged | None:
        """What an earlier attempt made of a part, with its run put into `runs`."""
        if self.kept is None or not self.kept.exists(f"{part}.json"):
            return None
        self.runs.mkdir(parents=True, exist_ok=True)
        (self.runs / f"{part}.npy").write_bytes(self.kept.read(f"{part}.npy"))
        for path in lookups:
            target = self.found / path / f"{part}.npy"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.kept.read(f"{part}.found.{path}.npy"))
        return Judged.model_validate_json(self.kept.read(f"{part}.json"))

    def keep(self, judged: Judged, lookups: Sequence[str] = ()) -> None:
        if self.kept is not None:
            for path in lookups:
                self.kept.write(f"{judged.part}.found.{path}.npy", (self.found / path / f"{judged.part}.npy").read_bytes())
            self.kept.write(f"{judged.part}.npy", (self.runs / f"{judged.part}.npy").read_bytes())
            self.kept.write(f"{judged.part}.json", judged.model_dump_json().encode())


@dataclass(frozen=True)
class Hands:
    """Who makes a pass. Starting a process costs a second, in which this one reads millions of rows."""

    workers: int
    num_rows: int

    def for_columns(self, function: Callable[[T], R], names: Sequence[T]) -> Iterator[tuple[T, R]]:
        """A pass over a column of numbers, or with filters that cost nothing: threads do, but for many rows and hands."""
        is_wide = engines.current() != "local" or self.workers > THREADS
        if is_wide and self.num_rows >= ROWS_FOR_PROCESSES:
            yield from process_map(function, names, workers=self.workers)
            return
        flying = deque[tuple[T, Future[R]]]()
        with ThreadPoolExecutor(min(self.workers, THREADS)) as pool:
            for name in names:
                flying.append((name, pool.submit(function, name)))
                if len(flying) >= 2 * THREADS:
                    yield _landed(*flying.popleft())
            while flying:
                yield _landed(*flying.popleft())

    def for_filters(self, tree: Filter, function: Callable[[T], R], names: Sequence[T]) -> Iterator[tuple[T, R]]:
        """A pass with all filters; costly ones are some hundred times slower, and hold Python's lock."""
        if cost_of(tree):
            return process_map(function, names, workers=self.costly_processes(tree))
        return self.for_columns(function, names)

    def costly_processes(self, tree: Filter) -> int:
        """Filters of embeddings and surveys are the costliest."""
        costliest = cost_of(tree) >= FeatureBatch.cost
        rows = COSTLIEST_ROWS_FOR_A_PROCESS if costliest else COSTLY_ROWS_FOR_A_PROCESS
        return min(self.workers, max(1, self.num_rows // rows))


def _landed(name: T, work: Future[R]) -> tuple[T, R]:
    return name, work.result()


def prepare(root: Placed, place: Place) -> None:
    """Let the filters of embeddings and tables prepare themselves."""
    place.prepared.mkdir()
    for path, asked in walk(root):
        if isinstance(asked, FeatureBatch):
            np.save(place.prepared / f"{path}.npy", asked.prepare())
        if isinstance(asked, Lookup):
            (place.prepared / path).mkdir()
            asked.prepare_table(place.prepared / path)


def find_cuts(
    source: Source, names: Sequence[str], root: Placed, place: Place, hands: Hands, progress: Progress
) -> dict[str, Cut]:
    """The cut of everything that ranks: the pool's first, then the survivors', each after those before it; and the surveys."""
    wide = [placed for placed in walk(root) if isinstance(placed.filter, (Ranked, Survey))]
    cuts: dict[str, Cut] = {}
    for placed in sorted(wide, key=lambda placed: not isinstance(placed.filter, Ranked) or placed.filter.among() == "survivors"):
        glance = Glance(source, root, dict(cuts), placed, place)
        if isinstance(placed.filter, Survey):
            _survey(placed.filter, glance, names, hands, progress)
        else:
            cuts[placed.path] = _cut(_ranks(placed), glance, names, hands, progress)
    return cuts


def _cut(asked: Ranked, glance: Glance, names: Sequence[str], hands: Hands, progress: Progress) -> Cut:
    def every(window: Window) -> Any:
        progress.start(len(names), f"parts for the cut of: {asked.title()}")
        work = partial(_look, glance, window)
        of_pool = asked.among() == "pool"
        for _, found in hands.for_columns(work, names) if of_pool else hands.for_filters(glance.root.filter, work, names):
            progress.advance()
            yield found

    cut, num_rows = find(every, asked.rank, is_few=hands.num_rows <= FEW)
    return cut._replace(times=asked.times(num_rows)) if isinstance(asked, SampleTo) else cut


def _survey(asked: Survey, glance: Glance, names: Sequence[str], hands: Hands, progress: Progress) -> None:
    """Note which rows come to it in every part, and let it decide."""
    workers = hands.costly_processes(glance.root.filter)
    local = glance.place.local / "surveys" / glance.placed.path
    view = View(glance.source, tuple(names), glance.placed.path, glance.place.memory, local, workers)
    (local / "reached").mkdir(parents=True)
    progress.start(len(names), f"parts for: {asked.title()}")
    for _ in hands.for_filters(glance.root.filter, partial(_note_reached, glance, view), names):
        progress.advance()
    asked.survey(view)


def _ranks(placed: Placed) -> Ranked:
    assert isinstance(placed.filter, Ranked)
    return placed.filter


@dataclass(frozen=True)
class Glance:
    """A look at the rows that come to one filter, in every part."""

    source: Source
    root: Placed
    cuts: dict[str, Cut]
    placed: Placed
    place: Place

    def reached(self, part: str) -> tuple[Judge, Mask]:
        """A part, judged as far as the filter, and the rows that came to it."""
        frame = self.source.read(part, {"uid", *self.root.filter.columns()})
        judge = Judge(frame, self.cuts, self.place.memory / part, self.source, part, self.place.prepared, self.placed.path)
        judge.verdict(self.root, judge.everybody())
        assert judge.reached is not None, "a filter that nobody comes to"
        return judge, judge.reached


def _look(glance: Glance, window: Window, part: str) -> Look:
    asked = _ranks(glance.placed)
    if asked.among() == "pool":
        frame = glance.source.read(part, asked.columns())
        return look(Judge(frame, {}).scores(asked), frame.height, window)
    judge, reached = glance.reached(part)
    return look(judge.scores(asked).filter(pl.Series(reached)), int(reached.sum()), window)


def _note_reached(glance: Glance, view: View, part: str) -> None:
    np.save(view.reached_file(part), glance.reached(part)[1])
