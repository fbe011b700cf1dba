"""Computes what must be known of the whole pool before a part can be judged: the thresholds of ranking filters, the verdicts
of surveys. Each is computed after the ones before it, by passes over the parts that read only the necessary columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from datacomp_core.exchange import Exchange
from datacomp_core.filters.base import FeatureBatch, Lookup, Mask, Ranked, Survey
from datacomp_core.filters.sample_to import SampleTo
from datacomp_core.machine_copy import MachineFolder
from datacomp_core.progress import Progress
from datacomp_core.selection.hands import Hands
from datacomp_core.selection.judge import Judge, Placed, ranks_survivors, walk
from datacomp_core.selection.threshold_search import FEW, Cut, Look, Window, find, look
from datacomp_core.selection.view import View
from datacomp_core.source import Source
from datacomp_core.store import Folder, scratch


@dataclass(frozen=True)
class Place:
    """Where the driver and the workers of a selection meet, in folders that all of them reach. It pickles.

    `runs`: the chosen uids of each part, and with `account="kept"` the account of each, written after them, which says that the
    part is done. `masks`: what filters of embeddings have prepared, by path; `tables`: what filters with a table have.
    """

    shared: Exchange
    runs: Exchange
    account: Literal["kept", "returned"]
    remembers: bool
    masks: Mapping[str, Mask] = field(default_factory=dict[str, Mask])
    tables: MachineFolder | None = None

    @property
    def memory(self) -> Exchange | None:
        """Where verdicts lie between the passes; None if the last pass is the only one that judges."""
        return self.shared / "memory" if self.remembers else None


def prepared(root: Placed, shared: Exchange, kept: Folder | None, local: Path) -> Place:
    """Let the filters of embeddings and tables prepare themselves. `local` is a folder of this machine's disk."""
    masks, tables = dict[str, Mask](), False
    for path, asked in walk(root):
        if isinstance(asked, FeatureBatch):
            masks[path] = asked.prepare()
        if isinstance(asked, Lookup):
            tables = True
            (local / path).mkdir(parents=True)
            asked.prepare_table(local / path)
    runs = shared / "runs" if kept is None else Exchange(Folder(kept.url))
    remembers = any(ranks_survivors(placed.filter) for placed in walk(root))
    reached = _brought(local, (shared / "tables").folder) if tables else None
    return Place(shared, runs, "returned" if kept is None else "kept", remembers, masks, reached)


def _brought(local: Path, to: Folder) -> MachineFolder:
    """A folder of files on this machine's disk, where all workers of the engine reach it."""
    if to.is_local:
        return MachineFolder(Folder(local))
    here = Folder(local)
    for name in here.files():
        with scratch() as own:  # `put` takes what it is given
            (own / "file").symlink_to(here.path / name)
            to.put(name, own / "file")
    return MachineFolder(to)


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
    memory, own = glance.place.memory, glance.place.shared / f"surveys/{glance.placed.path}"
    assert memory is not None, "a survey's verdicts lie in the memory"
    view = View(glance.source, tuple(names), glance.placed.path, memory, own, hands, workers)
    progress.start(len(names), f"parts for: {asked.title()}")
    num_reached = 0
    for _, came in hands.for_filters(glance.root.filter, partial(_note_reached, glance, view), names):
        num_reached += came
        progress.advance()
    asked.survey(replace(view, num_reached=num_reached))


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
        place = self.place
        judge = Judge(
            frame, self.cuts, place.memory, self.source, part, place.masks, place.tables, self.placed.path, keeps="verdicts"
        )
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


def _note_reached(glance: Glance, view: View, part: str) -> int:
    """How many rows of a part came."""
    _, reached = glance.reached(part)
    view.note_reached(part, reached)
    return int(reached.sum())
