"""Runs one part through a filter: returns its chosen uids as a sorted run, and the report on every dropped row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from datacomp_core import uid
from datacomp_core.filters.base import Filter, FilterDecision, Mask, score_title
from datacomp_core.pool_source import PoolSource
from datacomp_core.sampling_key import is_sampled, sampling_keys
from datacomp_core.selection.filter_evaluator import FilterEvaluator, FilterNode, cost_of, ranks_survivors, sequence
from datacomp_core.selection.pool_passes import SelectionWorkspace
from datacomp_core.selection.threshold_search import ScoreCutoff

SAMPLES = 200
SAMPLE_SEED = 0x5EED


class FilterStep(BaseModel):
    """The result of one filter of the sequence. `asked` rows reach it; `alone`: what it keeps of the whole pool, if known."""

    model_config = ConfigDict(frozen=True)
    title: str
    reason: str
    missing: str
    asked: int
    kept: int
    without_value: int
    alone: int | None
    reasons: dict[str, int] = {}
    """Of dropped rows, where the filter told why: rows by reason. The others are counted under `reason`."""

    def plus(self, other: FilterStep) -> FilterStep:
        alone = None if self.alone is None or other.alone is None else self.alone + other.alone
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("asked", "kept", "without_value")}
        reasons = {why: self.reasons.get(why, 0) + other.reasons.get(why, 0) for why in sorted({*self.reasons, *other.reasons})}
        return self.model_copy(update={**sums, "alone": alone, "reasons": reasons})


class ExampleRow(BaseModel):
    """One row to look at: `lot` is its place in a random order, `reason` empty if it was kept."""

    model_config = ConfigDict(frozen=True)
    lot: int
    part: str
    row: int
    uid: str
    reason: str
    score: float | None


class PartReport(BaseModel):
    """The account of one part."""

    model_config = ConfigDict(frozen=True)
    part: str
    rows: int
    steps: list[FilterStep]
    kept_scores: list[int]
    dropped_scores: list[int]
    samples: list[ExampleRow]
    watched: list[int] = []
    """For each row of the watched sample, in order: 0 if it was kept, else the place of its reason in `words_of`, from 1."""


@dataclass(frozen=True)
class PartJob:
    """The work on each part. `edges`: of the histogram of `score`; none if nothing is shown."""

    source: PoolSource
    root: Filter
    cuts: Mapping[str, ScoreCutoff]
    place: SelectionWorkspace
    score: str = ""
    edges: tuple[float, ...] = ()
    samples: int = SAMPLES
    watched: int | None = None
    """The highest sampling key of a uniform sample (`sampling_keys`) for which the reason of every row is recorded; None:
    for no row."""

    def columns(self) -> set[str]:
        return {"uid", *self.root.columns(), *([self.score] if self.score else [])}


def judge_part(job: PartJob, part: str) -> PartReport:
    """Write the run of chosen uids, and the account behind it where both are kept; return the account."""
    frame = job.source.read(part, job.columns())
    place, where = job.place, job.source.metadata.at(f"{part}.parquet")
    judge = FilterEvaluator(frame, job.cuts, place.memory, job.source, part, place.masks, place.tables)
    reach, why = judge.everybody(), np.zeros(frame.height, np.int16)
    steps: list[FilterStep] = []
    sequenced = sequence(FilterNode("0", job.root))
    for placed in sequenced:
        said, alone = _asked(judge, placed, reach)
        missing = reach & ~said.yes & ~said.no
        why[reach & said.no] = 2 * len(steps) + 1
        why[missing] = 2 * len(steps) + 2
        step = _step(placed.filter, int(reach.sum()), int(said.yes.sum()), int(missing.sum()), alone)
        steps.append(step.model_copy(update={"reasons": _told(judge.reasons.get(placed.path), reach & said.no)}))
        reach = said.yes
    uids = frame["uid"] if judge.found else frame["uid"].filter(pl.Series(reach))
    packed = uid.pack(uids, where)
    chosen = packed[reach] if judge.found else packed
    is_drawn = sequenced[-1].filter.is_outermost
    if is_drawn:
        chosen = np.repeat(chosen, judge.copies(sequenced[-1])[reach])
    chosen = uid.sort(chosen)
    place.runs.save(f"{part}.npy", chosen)
    for path, there in judge.found.items():
        same = not is_drawn and np.array_equal(there, reach)
        place.runs.save(found_name(part, path), chosen if same else uid.sort(packed[there]))
    scores = frame[job.score].cast(pl.Float64).fill_nan(None) if job.score else None
    kept, dropped = (_histogram(scores, mask, job.edges) for mask in (reach, ~reach))
    samples = _samples(job, part, frame["uid"], why, scores, steps) if job.samples else []
    watched = why[is_sampled(uid.pack(frame["uid"]), job.watched)].tolist() if job.watched is not None else []
    made = PartReport(
        part=part,
        rows=frame.height,
        steps=steps,
        kept_scores=kept,
        dropped_scores=dropped,
        samples=samples,
        watched=watched,
    )
    if place.account == "kept":
        place.runs.folder.write(f"{part}.json", made.model_dump_json().encode())
    return made


def found_name(part: str, path: str) -> str:
    """Where the uids of a part that are on the list at `path` are among the runs."""
    return f"{part}.found.{path}.npy"


def _asked(judge: FilterEvaluator, placed: FilterNode, reach: Mask) -> tuple[FilterDecision, int | None]:
    """Evaluate a cheap filter on every row, to learn what it does alone; a costly one on `reach` only."""
    if cost_of(placed.filter) or ranks_survivors(placed.filter):
        return judge.verdict(placed, reach), None
    said = judge.verdict(placed, judge.everybody())
    return FilterDecision(said.yes & reach, said.no & reach), int(said.yes.sum())


def _step(asked: Filter, came: int, kept: int, missing: int, alone: int | None) -> FilterStep:
    return FilterStep(
        title=asked.title(),
        reason=asked.reason(),
        missing=_missing(asked),
        asked=came,
        kept=kept,
        without_value=missing,
        alone=alone,
    )


def _missing(asked: Filter) -> str:
    """Why a row is dropped that a filter cannot judge. Filters of embeddings read no column."""
    if told := asked.missing():
        return told
    if columns := sorted(asked.columns()):
        return f"no {' or '.join(map(score_title, columns))}"
    return f"no finite features {features}_img" if (features := asked.feature_prefix()) else "no value"


def _told(why: pl.Series | None, dropped: Mask) -> dict[str, int]:
    """Dropped rows by the reason that the filter itself told."""
    if why is None:
        return {}
    counted = why.filter(pl.Series(dropped)).value_counts(name="rows").sort(why.name)
    return {str(reason): int(rows) for reason, rows in counted.iter_rows()}


def _histogram(scores: pl.Series | None, mask: Mask, edges: tuple[float, ...]) -> list[int]:
    if scores is None or not edges:
        return []
    values = scores.filter(pl.Series(mask)).drop_nulls().to_numpy()
    return np.histogram(values, bins=np.array(edges))[0].tolist()


def words_of(steps: Sequence[FilterStep]) -> list[str]:
    """The reasons of a sequence of steps by their number: 0 is kept."""
    return [""] + [text for step in steps for text in (step.reason, step.missing)]


def _samples(
    job: PartJob,
    part: str,
    uids: pl.Series,
    why: np.ndarray[tuple[int], np.dtype[np.int16]],
    scores: pl.Series | None,
    steps: list[FilterStep],
) -> list[ExampleRow]:
    """For every reason (0: kept) the rows with the smallest sampling keys: together with those of other parts, a uniform
    sample."""
    order = sampling_keys(uid.pack(uids), SAMPLE_SEED)
    words = words_of(steps)
    found: list[ExampleRow] = []
    for reason in np.unique(why).tolist():
        rows = np.flatnonzero(why == reason)
        first = rows[np.argsort(order[rows], kind="stable")[: job.samples]]
        for row in first.tolist():
            score = None if scores is None else scores[row]
            found.append(ExampleRow(lot=int(order[row]), part=part, row=row, uid=uids[row], reason=words[reason], score=score))
    return found
