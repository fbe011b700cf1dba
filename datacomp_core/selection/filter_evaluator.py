"""Evaluates a filter tree on one part: which filter judges which rows, in which order, with which result. Cheap filters run
first, costly ones last and only on the survivors; no filter moves past one that ranks survivors, because that would change
which rows it ranks. Pure, except for the optional memory of costly verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.columns import numbers
from datacomp_core.driver_files import Exchange
from datacomp_core.errors import DataError
from datacomp_core.filters.algebra import AllOf, AnyOf, NotOf
from datacomp_core.filters.base import (
    BatchFilter,
    FeatureFilter,
    Filter,
    FilterDecision,
    GlobalFilter,
    LookupFilter,
    Mask,
    RankFilter,
    RowFilter,
    check_expression,
)
from datacomp_core.filters.captions_of import CaptionsOf
from datacomp_core.filters.resampling import ResamplingFilter, read_copies
from datacomp_core.machine_cache import CachedFolder
from datacomp_core.pool_source import Block, PoolSource
from datacomp_core.selection.threshold_search import ScoreCutoff
from datacomp_core.selection.view import asked_blocks, packed_verdict, verdict_name, verdict_of


class FilterNode(NamedTuple):
    """A filter and its position in the tree, which identifies its cutoffs and memories."""

    path: str
    filter: Filter


def children(placed: FilterNode) -> list[FilterNode]:
    inner = placed.filter
    if isinstance(inner, (AllOf, AnyOf)):
        return [FilterNode(f"{placed.path}.{number}", each) for number, each in enumerate(inner.filters)]
    if isinstance(inner, (NotOf, CaptionsOf)):
        return [FilterNode(f"{placed.path}.0", inner.filter)]
    return []


def walk(placed: FilterNode) -> Iterator[FilterNode]:
    """Yield every filter of a tree in the order of evaluation."""
    yield placed
    inner = sequence(placed) if isinstance(placed.filter, AllOf) else ordered(children(placed))
    for each in inner:
        yield from walk(each)


def source_at(root: FilterNode, path: str, source: PoolSource) -> PoolSource:
    """Return the source for the filter at `path`: the pool with the captions that the innermost `captions_of` above it names."""
    for placed in walk(root):  # outer ones come first
        if isinstance(placed.filter, CaptionsOf) and path.startswith(f"{placed.path}."):
            source = source.of(placed.filter.captions)
    return source


def sequence(placed: FilterNode) -> list[FilterNode]:
    """Return the steps of a tree: the filters in its outermost `AllOf`s, in the order of evaluation."""
    if not isinstance(placed.filter, AllOf):
        return [placed]
    return ordered([step for child in children(placed) for step in sequence(child)])


def ordered(filters: list[FilterNode]) -> list[FilterNode]:
    """Cheap ones first, but nothing moves past one that ranks survivors."""
    done: list[FilterNode] = []
    run: list[FilterNode] = []
    for each in filters:
        if ranks_survivors(each.filter):
            done += [*_by_cost(run), each]
            run = []
        else:
            run.append(each)
    return done + _by_cost(run)


def ranks_survivors(each: Filter) -> bool:
    """Whether what it keeps depends on who comes to it."""
    return any(_looks_at_survivors(placed.filter) for placed in _walk_plain(FilterNode("", each)))


def _looks_at_survivors(each: Filter) -> bool:
    return isinstance(each, GlobalFilter) or (isinstance(each, RankFilter) and each.among() == "survivors")


def cost_of(each: Filter) -> int:
    return max(p.filter.cost for p in _walk_plain(FilterNode("", each)))


def _by_cost(run: list[FilterNode]) -> list[FilterNode]:
    return sorted(run, key=lambda placed: cost_of(placed.filter))


def _walk_plain(placed: FilterNode) -> Iterator[FilterNode]:
    yield placed
    for each in children(placed):
        yield from _walk_plain(each)


@dataclass
class FilterEvaluator:
    """One part's rows. `memory`: where the verdicts of global filters are, and those of costly filters between passes over this
    part.

    `source` and `part` are for filters of embeddings, which are never loaded whole; `masks` is what those have prepared, by path,
    and `tables` contains the tables of filters that look rows up. The last pass does not keep verdicts (`keeps="nothing"`).
    """

    frame: pl.DataFrame
    cuts: Mapping[str, ScoreCutoff]
    memory: Exchange | None = None
    source: PoolSource | None = None
    part: str = ""
    masks: Mapping[str, Mask] = field(default_factory=dict[str, Mask])
    tables: CachedFolder | None = None
    watched: str = ""
    keeps: Literal["verdicts", "nothing"] = "nothing"
    reached: Mask | None = None
    """The rows that reach the filter at `watched`, for which this pass is made."""
    found: dict[str, Mask] = field(default_factory=dict[str, Mask])
    """The answer of each `LookupFilter` for all rows of the part, whether or not they reach it."""
    reasons: dict[str, pl.Series] = field(default_factory=dict[str, pl.Series])
    """Of batches that tell one: why each row was dropped, empty where it was not."""

    def everybody(self) -> Mask:
        return np.ones(self.frame.height, np.bool_)

    def verdict(self, placed: FilterNode, reach: Mask) -> FilterDecision:
        """Return a filter's decision for the rows in `reach`, shape (rows,)."""
        path, asked = placed
        if path == self.watched:
            self.reached = reach
        if self.reached is not None:  # what comes after it is not asked: its cut may not be known yet
            return _silence(len(reach))
        if isinstance(asked, AllOf):
            return self._all(placed, reach)
        if isinstance(asked, AnyOf):
            return self._any(placed, reach)
        if isinstance(asked, NotOf):
            yes, no = self.verdict(children(placed)[0], reach)
            return FilterDecision(no, yes)
        if isinstance(asked, CaptionsOf):
            return self._with_captions(asked.captions, children(placed)[0], reach)
        return self._leaf(path, asked, reach)

    def _with_captions(self, captions: str, placed: FilterNode, reach: Mask) -> FilterDecision:
        """Return the decision of a filter that reads the captions of another source."""
        assert self.source is not None, "a filter of named captions without a source"
        source = self.source.of(captions)
        frame = source.read(self.part, {"uid", *placed.filter.columns()})
        other = replace(self, frame=frame, source=source)
        said = other.verdict(placed, reach)
        self.reached = other.reached
        return said

    def _leaf(self, path: str, asked: Filter, reach: Mask) -> FilterDecision:
        if isinstance(asked, RowFilter):
            return _within(reach, answers_of(asked, self._series(asked, asked.expression(), asked.numeric_columns())))
        if isinstance(asked, RankFilter):
            return self._ranked(asked, self.cuts[path], reach)
        if isinstance(asked, GlobalFilter):
            yes, no, _ = verdict_of(self._memory().load(verdict_name(self.part, path)), len(reach))
            return FilterDecision(yes & reach, no & reach)
        assert isinstance(asked, BatchFilter), f"{type(asked).__name__} is not a known sort of filter"
        return self._batch(path, asked, reach)

    def _all(self, placed: FilterNode, reach: Mask) -> FilterDecision:
        yes, no = reach.copy(), np.zeros_like(reach)
        for step in sequence(placed):
            # Where a value was missing a later no still makes it a no; but only a yes so far is a survivor.
            said = self.verdict(step, yes if ranks_survivors(step.filter) else reach & ~no)
            no |= said.no
            yes = yes & said.yes
        return FilterDecision(yes, no)

    def _any(self, placed: FilterNode, reach: Mask) -> FilterDecision:
        yes, no = np.zeros_like(reach), reach.copy()
        for child in ordered(children(placed)):
            said = self.verdict(child, reach & ~yes)
            yes |= said.yes
            no &= said.no
        return FilterDecision(yes, no)

    def _ranked(self, asked: RankFilter, cut: ScoreCutoff, reach: Mask) -> FilterDecision:
        scores = self.scores(asked)
        known = scores.is_not_null().to_numpy() & reach
        yes = known if cut.times else known & _at_least(scores, cut.value)
        return FilterDecision(yes, known & ~yes)

    def copies(self, placed: FilterNode) -> npt.NDArray[np.int64]:
        """How often a row that passed is taken: once, but for a sample that repeats. Shape (rows,)."""
        if isinstance(placed.filter, ResamplingFilter):
            return read_copies(self._memory(), verdict_name(self.part, placed.path), self.frame.height)
        if not (placed.filter.is_outermost and isinstance(placed.filter, RankFilter)):
            return np.ones(self.frame.height, np.int64)
        cut = self.cuts[placed.path]
        return cut.times + _at_least(self.scores(placed.filter), cut.value).astype(np.int64)

    def scores(self, asked: RankFilter) -> pl.Series:
        """A ranking filter's scores as Float32, Float64 or UInt64, null where there is none."""
        scores = numbers(self._series(asked, asked.score_expression()).alias(", ".join(sorted(asked.columns()))))
        if not any(scores.dtype == dtype for dtype in (pl.Float32, pl.Float64, pl.UInt64)):
            scores = scores.cast(pl.Float32 if scores.dtype == pl.Float16 else pl.Float64)
        return scores.fill_nan(None) if scores.dtype.is_float() else scores

    def _batch(self, path: str, asked: BatchFilter, reach: Mask) -> FilterDecision:
        name = verdict_name(self.part, path)
        if self.memory is not None and (kept := self.memory.find(name)) is not None:
            yes, no, reasons = verdict_of(kept, len(reach))
            said = FilterDecision(yes, no)
            if reasons is not None:
                self.reasons[path] = reasons
        else:
            said = self._asked(path, asked, reach)
            if self.memory is not None and self.keeps == "verdicts":
                self.memory.save(name, packed_verdict(*said, self.reasons.get(path)))
        if isinstance(asked, LookupFilter):
            self.found[path] = said.yes
            return FilterDecision(said.yes & reach, said.no & reach)
        return said

    def _asked(self, path: str, asked: BatchFilter, reach: Mask) -> FilterDecision:
        if isinstance(asked, FeatureFilter):
            return self._features(path, asked, reach)
        columns = sorted(asked.columns())
        if isinstance(asked, LookupFilter):
            assert self.tables is not None, "a filter with a table that was not prepared"
            return _within(self.everybody(), asked.look_up(self.frame.select(columns), self.tables.path(path)))
        rows = self.frame.select(columns).filter(pl.Series(reach))
        if not rows.height:
            return _silence(len(reach))
        answers = answers_of(asked, asked.judge(rows), reasons="told")
        _require_one_a_row(asked, answers, rows.height)
        if answers.dtype == pl.String:
            why = np.full(len(reach), "", object)
            why[reach] = answers.fill_null("").to_list()
            self.reasons[path] = pl.Series(why.tolist(), dtype=pl.String)
            answers = answers == ""
        return _spread(np.flatnonzero(reach), answers, len(reach))

    def _features(self, path: str, asked: FeatureFilter, reach: Mask) -> FilterDecision:
        if not reach.any():
            return _silence(len(reach))
        assert self.source is not None, "a filter of embeddings without a source"
        assert path in self.masks, "a filter of embeddings that was not prepared"
        rows: list[npt.NDArray[np.int64]] = []

        def blocks() -> Iterator[Block]:
            for places, block in asked_blocks(source, self.part, asked.feature_key(), reach):
                rows.append(places)
                yield block

        source, given = self.source, blocks()
        first = next(given, None)
        if first is None:  # no row has features
            return _silence(len(reach))
        answers = answers_of(asked, asked.judge_features(chain([first], given), self.masks[path]))
        places = np.concatenate(rows)
        _require_one_a_row(asked, answers, len(places))
        return _spread(places, answers, len(reach))

    def _memory(self) -> Exchange:
        assert self.memory is not None, "a survey's verdicts lie in the memory"
        return self.memory

    def _series(self, asked: Filter, expression: pl.Expr, numeric: Iterable[str] = ()) -> pl.Series:
        """An expression over all rows; a literal becomes as long as the part. `numeric` columns are used as scores."""
        frame = self.frame.with_columns(numbers(self.frame[name]) for name in numeric)
        try:
            found = frame.select(check_expression(asked, expression).alias("_")).to_series()
        except pl.exceptions.PolarsError as problem:
            raise DataError(
                f"The filter {asked.kind} cannot be evaluated on part {self.part}: {str(problem).splitlines()[0]}."
            ) from problem
        return found if len(found) == self.frame.height else found.new_from_index(0, self.frame.height)


def answers_of(asked: Filter, given: object, *, reasons: Literal["told", "refused"] = "refused") -> pl.Series:
    """Return a filter's answers as booleans (null: a missing value), or as reasons if "told". DataError if they are neither."""
    if isinstance(given, (list, np.ndarray)):
        given = pl.Series(given)
    if isinstance(given, pl.Series) and given.dtype == pl.Null:
        return given.cast(pl.Boolean)
    if isinstance(given, pl.Series) and (given.dtype == pl.Boolean or (given.dtype == pl.String and reasons == "told")):
        return given
    what = f"a series of {given.dtype}" if isinstance(given, pl.Series) else type(given).__name__
    wanted = "booleans, or of reasons as text" if reasons == "told" else "booleans"
    raise DataError(f"The filter {asked.kind} returns {what}: return a polars series of {wanted}, one per row.")


def _require_one_a_row(asked: Filter, answers: pl.Series, rows: int) -> None:
    if len(answers) != rows:
        raise DataError(f"The filter {asked.kind} returned {len(answers)} answers for {rows} rows: it must return one per row.")


def _at_least(scores: pl.Series, value: float | int | None) -> Mask:
    if value is None:
        return np.zeros(len(scores), np.bool_)
    return (scores >= pl.Series([value], dtype=scores.dtype)).fill_null(False).to_numpy()


def _within(reach: Mask, answers: pl.Series) -> FilterDecision:
    yes = answers.fill_null(False).to_numpy() & reach
    known = answers.is_not_null().to_numpy() & reach
    return FilterDecision(yes, known & ~yes)


def _silence(rows: int) -> FilterDecision:
    return FilterDecision(np.zeros(rows, np.bool_), np.zeros(rows, np.bool_))


def _spread(places: npt.NDArray[np.int64], answers: pl.Series, rows: int) -> FilterDecision:
    """Answers of the rows at `places` as a verdict on all rows."""
    said = _silence(rows)
    said.yes[places] = answers.fill_null(False).to_numpy()
    said.no[places] = (~answers).fill_null(False).to_numpy()
    return said
