"""A filter tree over one part: which rows are asked what, in which order, and what the answer is.

Cheap filters first, costly ones last and only about the survivors; nothing moves past a filter that ranks survivors, because
that would change whom it ranks. Pure but for the optional memory of costly verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.filters.algebra import All, Any, Not
from datacomp_core.filters.base import Batch, Filter, Mask, Ranked, Rule, Verdict
from datacomp_core.filters.sample_to import SampleTo


class Placed(NamedTuple):
    """A filter and where it stands in its tree, by which cuts and memories are known."""

    path: str
    filter: Filter


class Cut(NamedTuple):
    """Scores of at least `value` pass; none do if it is None. `times`: how often every row is taken before (`SampleTo`)."""

    value: float | int | None
    times: int = 0


def children(placed: Placed) -> list[Placed]:
    inner = placed.filter
    if isinstance(inner, (All, Any)):
        return [Placed(f"{placed.path}.{number}", each) for number, each in enumerate(inner.filters)]
    if isinstance(inner, Not):
        return [Placed(f"{placed.path}.0", inner.filter)]
    return []


def walk(placed: Placed) -> Iterator[Placed]:
    """Every filter of a tree in the order in which it is asked."""
    yield placed
    inner = sequence(placed) if isinstance(placed.filter, All) else ordered(children(placed))
    for each in inner:
        yield from walk(each)


def sequence(placed: Placed) -> list[Placed]:
    """The steps of a tree: what its outermost `All`s hold, in the order in which it is asked."""
    if not isinstance(placed.filter, All):
        return [placed]
    return ordered([step for child in children(placed) for step in sequence(child)])


def ordered(filters: list[Placed]) -> list[Placed]:
    """Cheap ones first, but nothing moves past one that ranks survivors."""
    done: list[Placed] = []
    run: list[Placed] = []
    for each in filters:
        if ranks_survivors(each.filter):
            done += [*_by_cost(run), each]
            run = []
        else:
            run.append(each)
    return done + _by_cost(run)


def ranks_survivors(each: Filter) -> bool:
    return any(isinstance(p.filter, Ranked) and p.filter.among() == "survivors" for p in _walk_plain(Placed("", each)))


def cost_of(each: Filter) -> int:
    return max(p.filter.cost for p in _walk_plain(Placed("", each)))


def _by_cost(run: list[Placed]) -> list[Placed]:
    return sorted(run, key=lambda placed: cost_of(placed.filter))


def _walk_plain(placed: Placed) -> Iterator[Placed]:
    yield placed
    for each in children(placed):
        yield from _walk_plain(each)


@dataclass
class Judge:
    """One part's rows. `memory`: where verdicts of costly filters are kept between passes over this part."""

    frame: pl.DataFrame
    cuts: Mapping[str, Cut]
    memory: Path | None = None
    watched: str = ""
    reached: Mask | None = None
    """The rows that came to the filter at `watched`: on whose account this pass is made."""

    def everybody(self) -> Mask:
        return np.ones(self.frame.height, np.bool_)

    def verdict(self, placed: Placed, reach: Mask) -> Verdict:
        """What a filter says about the rows in `reach`, shape (rows,)."""
        path, asked = placed
        if path == self.watched:
            self.reached = reach
            return Verdict(np.zeros_like(reach), np.zeros_like(reach))
        if isinstance(asked, All):
            return self._all(placed, reach)
        if isinstance(asked, Any):
            return self._any(placed, reach)
        if isinstance(asked, Not):
            yes, no = self.verdict(children(placed)[0], reach)
            return Verdict(no, yes)
        return self._leaf(path, asked, reach)

    def _leaf(self, path: str, asked: Filter, reach: Mask) -> Verdict:
        if isinstance(asked, Rule):
            return _within(reach, self._series(asked.expression()))
        if isinstance(asked, Ranked):
            return self._ranked(asked, self.cuts[path], reach)
        assert isinstance(asked, Batch), f"{type(asked).__name__} is no sort of filter"
        return self._batch(path, asked, reach)

    def _all(self, placed: Placed, reach: Mask) -> Verdict:
        yes, no = reach.copy(), np.zeros_like(reach)
        for step in sequence(placed):
            # Where a value was missing a later no still makes it a no; but only a yes so far is a survivor.
            said = self.verdict(step, yes if ranks_survivors(step.filter) else reach & ~no)
            no |= said.no
            yes = yes & said.yes
        return Verdict(yes, no)

    def _any(self, placed: Placed, reach: Mask) -> Verdict:
        yes, no = np.zeros_like(reach), reach.copy()
        for child in ordered(children(placed)):
            said = self.verdict(child, reach & ~yes)
            yes |= said.yes
            no &= said.no
        return Verdict(yes, no)

    def _ranked(self, asked: Ranked, cut: Cut, reach: Mask) -> Verdict:
        scores = self.scores(asked)
        known = scores.is_not_null().to_numpy() & reach
        yes = known if cut.times else known & _at_least(scores, cut.value)
        return Verdict(yes, known & ~yes)

    def copies(self, placed: Placed) -> npt.NDArray[np.int64]:
        """How often a row that passed is taken: once, but for a sample that repeats. Shape (rows,)."""
        if not isinstance(placed.filter, SampleTo):
            return np.ones(self.frame.height, np.int64)
        cut = self.cuts[placed.path]
        return cut.times + _at_least(self.scores(placed.filter), cut.value).astype(np.int64)

    def scores(self, asked: Ranked) -> pl.Series:
        """A ranking filter's scores as Float32, Float64 or UInt64, null where there is none."""
        scores = self._series(asked.score_expression())
        if not any(scores.dtype == dtype for dtype in (pl.Float32, pl.Float64, pl.UInt64)):
            scores = scores.cast(pl.Float32 if scores.dtype == pl.Float16 else pl.Float64)
        return scores.fill_nan(None) if scores.dtype.is_float() else scores

    def _batch(self, path: str, asked: Batch, reach: Mask) -> Verdict:
        kept = self.memory / f"{path}.npy" if self.memory is not None else None
        if kept is not None and kept.exists():
            yes, no = np.unpackbits(np.load(kept), axis=1, count=len(reach)).astype(np.bool_)
            return Verdict(yes, no)
        yes, no = np.zeros_like(reach), np.zeros_like(reach)
        rows = self.frame.select(sorted(asked.columns())).filter(pl.Series(reach))
        if rows.height:
            answers = asked.judge(rows)
            yes[reach] = answers.fill_null(False).to_numpy()
            no[reach] = (~answers).fill_null(False).to_numpy()
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, np.packbits(np.stack([yes, no]), axis=1))
        return Verdict(yes, no)

    def _series(self, expression: pl.Expr) -> pl.Series:
        """An expression over all rows; a literal becomes as long as the part."""
        found = self.frame.select(expression.alias("_")).to_series()
        return found if len(found) == self.frame.height else found.new_from_index(0, self.frame.height)


def _at_least(scores: pl.Series, value: float | int | None) -> Mask:
    if value is None:
        return np.zeros(len(scores), np.bool_)
    return (scores >= pl.Series([value], dtype=scores.dtype)).fill_null(False).to_numpy()


def _within(reach: Mask, answers: pl.Series) -> Verdict:
    yes = answers.fill_null(False).to_numpy() & reach
    known = answers.is_not_null().to_numpy() & reach
    return Verdict(yes, known & ~yes)
