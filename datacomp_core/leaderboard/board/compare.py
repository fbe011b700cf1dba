"""Two or more methods side by side: what changed on each task, how far their subsets overlap, and what each chose alone.

The first is what the others are compared with. Scores and verdicts of a method are over all its seeds; its subset is the one of
the first seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.artifacts import BoardEntry, Subset
from datacomp_core.errors import SpecError, unknown
from datacomp_core.leaderboard.board import composition
from datacomp_core.leaderboard.board.board import entries, images_in, make_board
from datacomp_core.leaderboard.board.composition import Composition, Contrast
from datacomp_core.leaderboard.board.noise import SeedNoise
from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.board.sample import SubsetSample, draw
from datacomp_core.leaderboard.board.stats import Verdict, compare
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.leaderboard.entries.placement import TRACKS
from datacomp_core.leaderboard.entries.provenance import HEX, MIN_PREFIX, find
from datacomp_core.store import Folder, Store
from datacomp_core.subset_files import Overlap, SubsetFile, overlap

MAX_SAMPLES = 24
POOL = "pool"


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a method's runs, or one run."""

    name: str
    row: BoardRow
    runs: list[tuple[str, Entry]]

    @property
    def first(self) -> Entry:
        return self.runs[0][1]


class TaskLine(BaseModel):
    """One task that all have, with each one's score (mean over seeds), in the contenders' order."""

    model_config = ConfigDict(frozen=True)
    key: str
    name: str
    values: list[float]

    @property
    def difference(self) -> float:
        """The last one's score less the first's."""
        return self.values[-1] - self.values[0]


class ExamplePair(BaseModel):
    """One row of the pool."""

    model_config = ConfigDict(frozen=True)
    uid: str
    text: str | None
    url: str


class SubsetDifference(BaseModel):
    """Two of the contenders: the overlap of their subsets, and what each chose without the other."""

    model_config = ConfigDict(frozen=True)
    first: str
    second: str
    overlap: Overlap
    only_first: list[ExamplePair] = Field(description="Some pairs that the first chose and the second did not.")
    only_second: list[ExamplePair]
    words: list[Contrast] = Field(
        description="Words that tell apart what each chose alone (all it chose, if nothing): the first's, then the second's."
    )


class Comparison(BaseModel):
    """See the module. `verdicts` are of each but the first, against the first."""

    model_config = ConfigDict(frozen=True)
    names: list[str]
    addresses: list[list[str]]
    averages: list[float | None]
    tasks: list[TaskLine] = Field(description="The largest gain of the last over the first comes first.")
    verdicts: list[Verdict | None]
    differences: list[SubsetDifference] = Field(description="For each pair of methods.")
    makeup: Composition | None = Field(description="None if no metadata of a pool is left.")


def contenders(store: Store, scale: str, wanted: Sequence[str], track: str = "") -> list[Contender]:
    """Each by the name or key of a row of the board, or by the address or fingerprint of an entry; of one `track`, or of both.

    SpecError if unknown, or if a name is in both tracks.
    """
    if track not in ("", *TRACKS):
        raise unknown("track", track, TRACKS)
    found = dict(entries(store, scale))
    board = make_board(scale, found.items())
    board = board.of_track(track) if track else board
    made = [_contender(store, board, found, text) for text in wanted]
    if len({one.runs[0][0] for one in made}) < len(made):
        raise SpecError(f"{', '.join(wanted)}: the same method twice; name two that differ.")
    names = [one.name for one in made]
    return [replace(one, name=f"{one.name} {one.row.key[:6]}") if names.count(one.name) > 1 else one for one in made]


def _contender(store: Store, board: Board, found: dict[str, Entry], text: str) -> Contender:
    rows = [row for row in board.rows if row.kind == "run" and text in (row.method, row.key)]
    if len(rows) > 1:
        named = ", ".join(f"{row.key} ({row.track})" for row in rows)
        raise SpecError(f"{text!r} names {len(rows)} rows of the board: give --track, or the key of one: {named}.")
    if rows:
        return Contender(rows[0].method, rows[0], [(address, found[address]) for address in rows[0].entries])
    if "/" not in text and not (len(text) >= MIN_PREFIX and HEX.fullmatch(text)):
        raise unknown("method", text, [row.method for row in board.rows if row.kind == "run"])
    record = find(store, text)
    if record.kind != BoardEntry.kind:
        raise SpecError(
            f"{text!r} is an artifact of kind {record.kind}: name leaderboard entries, the only kind that can be compared."
        )
    entry = read(store, store.artifact(BoardEntry, record))
    alone = make_board(entry.scale, [(record.address, entry)])
    name = f"{entry.method} ({', '.join(f'{kind} seed {seed}' for kind, seed in entry.seeds.items())})"
    return Contender(name, next(row for row in alone.rows if row.kind == "run"), [(record.address, entry)])


def compare_methods(store: Store, chosen: Sequence[Contender], sample: SubsetSample | None = None) -> Comparison:
    """Compare two or more. SpecError if their suites differ. `sample` may hold the subsets of more methods than these."""
    suites = {(one.first.suite, one.first.suite_version): one.name for one in chosen}
    if len(suites) > 1:
        said = " and ".join(f"{name} was scored by {suite} v{version}" for (suite, version), name in suites.items())
        raise SpecError(f"{said}: evaluate one of them again.")
    if len(chosen) < 2:
        raise SpecError("Name two or more methods to compare.")
    sample = sample or draw(store, {one.name: one.first for one in chosen})
    return Comparison(
        names=[one.name for one in chosen],
        addresses=[[address for address, _ in one.runs] for one in chosen],
        averages=[None if one.row.average is None else one.row.average.mean for one in chosen],
        tasks=_task_lines(chosen),
        verdicts=[_verdict(store, one, chosen[0], chosen) for one in chosen[1:]],
        differences=[_difference(store, *two, sample) for two in combinations(chosen, 2)],
        makeup=None if sample is None else _makeup(sample, chosen),
    )


def _task_lines(chosen: Sequence[Contender]) -> list[TaskLine]:
    lines = [
        TaskLine(key=task.key, name=task.name, values=[one.row.scores[column].mean for one in chosen])
        for task in chosen[0].first.tasks
        if all((column := f"task:{task.key}") in one.row.scores for one in chosen)
    ]
    return sorted(lines, key=lambda line: -line.difference)


def _verdict(store: Store, one: Contender, other: Contender, chosen: Sequence[Contender]) -> Verdict | None:
    scored = [f"task:{task.key}" for task in one.first.tasks if task.scored]
    ours, theirs = [{key: side.row.scores[key].values for key in scored if key in side.row.scores} for side in (one, other)]
    noise = SeedNoise((side.row.by, side.row.average.values) for side in chosen if side.row.average)
    borrowed = (noise.borrowed_by(one.row.by), noise.borrowed_by(other.row.by))
    images = [[{f"task:{k}": v for k, v in run.items()} for run in images_in(store)(side.row)] for side in (one, other)]
    return compare(ours, theirs, other.name, other.row.key, borrowed, (images[0], images[1]))


def _difference(store: Store, first: Contender, second: Contender, sample: SubsetSample | None) -> SubsetDifference:
    common = overlap(SubsetFile(_subset(store, first)), SubsetFile(_subset(store, second)))
    alone = whole = [pl.DataFrame(schema={"uid": pl.String, "text": pl.String, "url": pl.String})] * 2
    if sample is not None:
        alone = [sample.only(first.name, second.name), sample.only(second.name, first.name)]
        whole = [sample.chosen(first.name), sample.chosen(second.name)]
    held = [own if len(own) else all_ for own, all_ in zip(alone, whole, strict=True)]
    return SubsetDifference(
        first=first.name,
        second=second.name,
        overlap=common,
        only_first=_pairs(alone[0]),
        only_second=_pairs(alone[1]),
        words=composition.contrast(held[0]["text"], held[1]["text"]),
    )


def _pairs(rows: pl.DataFrame) -> list[ExamplePair]:
    return [ExamplePair(**row) for row in rows.head(MAX_SAMPLES).select("uid", "text", "url").iter_rows(named=True)]


def _makeup(sample: SubsetSample, chosen: Sequence[Contender]) -> Composition:
    groups = {POOL: sample.rows, **{one.name: sample.chosen(one.name) for one in chosen}}
    return composition.measure(groups, sample.scores, sample.num_pool)


def _subset(store: Store, one: Contender) -> Folder:
    return store.folder(store.artifact(Subset, find(store, one.first.inputs["subset"])))
