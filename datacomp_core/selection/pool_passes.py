"""Computes what must be known of the whole pool before a part can be judged: the thresholds of ranking filters, the verdicts
of global filters. Each is computed after the ones before it, by passes over the parts that read only the necessary columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from datacomp_core.driver_files import Exchange
from datacomp_core.filters.base import FeatureFilter, GlobalFilter, LookupFilter, Mask, RankFilter
from datacomp_core.machine_cache import CachedFolder
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import Progress
from datacomp_core.selection.filter_evaluator import FilterEvaluator, FilterNode, ranks_survivors, source_at, walk
from datacomp_core.selection.threshold_search import FEW, KeyWindow, ScoreCutoff, WindowCounts, count_window, find
from datacomp_core.selection.view import SurvivorView
from datacomp_core.selection.worker_pool import WorkerPool
from datacomp_core.store import Folder, scratch


@dataclass(frozen=True)
class SelectionWorkspace:
    """Where the driver and the workers of a selection meet, in folders that all of them reach. It pickles.

    `runs`: the chosen uids of each part, and with `account="kept"` the account of each, written after them, which says that the
    part is done. `masks`: what filters of embeddings have prepared, by path; `tables`: what filters with a table have.
    """

    shared: Exchange
    runs: Exchange
    account: Literal["kept", "returned"]
    remembers: bool
    masks: Mapping[str, Mask] = field(default_factory=dict[str, Mask])
    tables: CachedFolder | None = None

    @property
    def memory(self) -> Exchange | None:
        """Where verdicts are between the passes; None if the last pass is the only one that judges."""
        return self.shared / "memory" if self.remembers else None


def prepared(root: FilterNode, shared: Exchange, kept: Folder | None, local: Path) -> SelectionWorkspace:
    """Let the filters of embeddings and tables prepare themselves. `local` is a folder of this machine's disk."""
    masks, tables = dict[str, Mask](), False
    for path, asked in walk(root):
        if isinstance(asked, FeatureFilter):
            masks[path] = asked.prepare()
        if isinstance(asked, LookupFilter):
            tables = True
            (local / path).mkdir(parents=True)
            asked.prepare_table(local / path)
    runs = shared / "runs" if kept is None else Exchange(Folder(kept.url))
    remembers = any(ranks_survivors(placed.filter) for placed in walk(root))
    reached = _brought(local, (shared / "tables").folder) if tables else None
    return SelectionWorkspace(shared, runs, "returned" if kept is None else "kept", remembers, masks, reached)


def _brought(local: Path, to: Folder) -> CachedFolder:
    """A folder of files on this machine's disk, where all workers of the engine reach it."""
    if to.is_local:
        return CachedFolder(Folder(local))
    here = Folder(local)
    for name in here.files():
        with scratch() as own:  # `put` takes what it is given
            (own / "file").symlink_to(here.path / name)
            to.put(name, own / "file")
    return CachedFolder(to)


def find_cuts(
    source: PoolSource,
    names: Sequence[str],
    root: FilterNode,
    place: SelectionWorkspace,
    workers_of_pass: WorkerPool,
    progress: Progress,
) -> dict[str, ScoreCutoff]:
    """The cut of everything that ranks: the pool's first, then the survivors', each after those before it; and the global
    filters."""
    wide = [placed for placed in walk(root) if isinstance(placed.filter, (RankFilter, GlobalFilter))]
    cuts: dict[str, ScoreCutoff] = {}
    for placed in sorted(
        wide, key=lambda placed: not isinstance(placed.filter, RankFilter) or placed.filter.among() == "survivors"
    ):
        scan = PartScan(source, root, dict(cuts), placed, place)
        if isinstance(placed.filter, GlobalFilter):
            _ask_global(placed.filter, scan, names, workers_of_pass, progress)
        else:
            cuts[placed.path] = _cut(_ranks(placed), scan, names, workers_of_pass, progress)
    return cuts


def _cut(asked: RankFilter, scan: PartScan, names: Sequence[str], workers_of_pass: WorkerPool, progress: Progress) -> ScoreCutoff:
    def every(window: KeyWindow) -> Any:
        progress.start(len(names), f"parts for the cut of: {asked.title()}")
        work = partial(_look, scan, window)
        of_pool = asked.among() == "pool"
        for _, found in (
            workers_of_pass.for_columns(work, names) if of_pool else workers_of_pass.for_filters(scan.root.filter, work, names)
        ):
            progress.advance()
            yield found

    cut, num_rows = find(every, asked.rank, is_few=workers_of_pass.num_rows <= FEW)
    return cut._replace(times=asked.full_rounds(num_rows))


def _ask_global(
    asked: GlobalFilter, scan: PartScan, names: Sequence[str], workers_of_pass: WorkerPool, progress: Progress
) -> None:
    """Note which rows come to it in every part, and let it decide."""
    workers = workers_of_pass.costly_processes(scan.root.filter)
    memory, own = scan.place.memory, scan.place.shared / f"surveys/{scan.placed.path}"
    assert memory is not None, "a survey's verdicts lie in the memory"
    view = SurvivorView(scan.read_by_filter(), tuple(names), scan.placed.path, memory, own, workers_of_pass, workers)
    progress.start(len(names), f"parts for: {asked.title()}")
    num_reached = 0
    for _, came in workers_of_pass.for_filters(scan.root.filter, partial(_note_reached, scan, view), names):
        num_reached += came
        progress.advance()
    asked.decide_all(replace(view, num_reached=num_reached))


def _ranks(placed: FilterNode) -> RankFilter:
    assert isinstance(placed.filter, RankFilter)
    return placed.filter


@dataclass(frozen=True)
class PartScan:
    """Scans the rows that reach one filter, in every part."""

    source: PoolSource
    root: FilterNode
    cuts: dict[str, ScoreCutoff]
    placed: FilterNode
    place: SelectionWorkspace

    def read_by_filter(self) -> PoolSource:
        """The source with the captions that the filter reads."""
        return source_at(self.root, self.placed.path, self.source)

    def reached(self, part: str) -> tuple[FilterEvaluator, Mask]:
        """Return a part, evaluated up to the filter, and the rows that reach it."""
        frame = self.source.read(part, {"uid", *self.root.filter.columns()})
        place = self.place
        judge = FilterEvaluator(
            frame, self.cuts, place.memory, self.source, part, place.masks, place.tables, self.placed.path, keeps="verdicts"
        )
        judge.verdict(self.root, judge.everybody())
        assert judge.reached is not None, "no row reaches this filter"
        return judge, judge.reached


def _look(scan: PartScan, window: KeyWindow, part: str) -> WindowCounts:
    asked = _ranks(scan.placed)
    if asked.among() == "pool":
        frame = scan.read_by_filter().read(part, asked.columns())
        return count_window(FilterEvaluator(frame, {}).scores(asked), frame.height, window)
    judge, reached = scan.reached(part)
    source = scan.read_by_filter()
    if source is not scan.source:
        judge = FilterEvaluator(source.read(part, {"uid", *asked.columns()}), {})
    return count_window(judge.scores(asked).filter(pl.Series(reached)), int(reached.sum()), window)


def _note_reached(scan: PartScan, view: SurvivorView, part: str) -> int:
    """How many rows of a part came."""
    _, reached = scan.reached(part)
    view.note_reached(part, reached)
    return int(reached.sum())
