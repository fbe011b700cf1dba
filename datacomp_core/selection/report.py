"""Builds the report of a selection: rows by step and by first reason, the score histogram, and samples to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from datacomp_core.external_files import place_of
from datacomp_core.parallel import concurrently
from datacomp_core.pool_source import PoolSource
from datacomp_core.selection.select_part import SAMPLES, ExampleRow, FilterStep, PartReport

BINS = 60


class ListAccount(BaseModel):
    """How a list of uids meets the pool. Counts of distinct uids, but for `listed`."""

    model_config = ConfigDict(frozen=True)
    uids: str
    listed: int
    unique: int
    in_pool: int
    not_in_pool: int
    examples: list[str]
    """Up to ten uids that are not the pool's."""
    excluded: bool = False
    """Its uids are dropped (it stands below a `not`), so that none of them is trained on."""
    arrived: int | None = None
    """Of those in the pool, how many are in the downloaded shards; None where no shards were given."""


class Explanation(BaseModel):
    """Rows by step in the order asked. `dropped` names the first reason of every dropped row; nothing else is dropped."""

    model_config = ConfigDict(frozen=True)
    recipe: str
    filter: dict[str, Any]
    rows: int
    kept: int
    steps: list[FilterStep]
    dropped: dict[str, int]
    lists: list[ListAccount] = []


class ReportTally:
    """Adds up the accounts of parts, in any order, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self.rows = 0
        self.steps: list[FilterStep] = []
        self.kept_scores: list[int] = []
        self.dropped_scores: list[int] = []
        self.samples: dict[str, list[ExampleRow]] = {}

    def add(self, part: PartReport) -> None:
        self.rows += part.rows
        self.steps = [a.plus(b) for a, b in zip(self.steps, part.steps, strict=True)] if self.steps else part.steps
        self.kept_scores = _sum(self.kept_scores, part.kept_scores)
        self.dropped_scores = _sum(self.dropped_scores, part.dropped_scores)
        for sample in part.samples:
            self.samples.setdefault(sample.reason, []).append(sample)
        for reason, some in self.samples.items():
            self.samples[reason] = sorted(some, key=_by_lot)[:SAMPLES]

    def explanation(self, recipe: str, tree: dict[str, Any]) -> Explanation:
        dropped: dict[str, int] = {}
        for step in self.steps:
            told = sum(step.reasons.values())
            plain = (step.reason, step.asked - step.kept - step.without_value - told)
            for reason, count in (plain, (step.missing, step.without_value), *step.reasons.items()):
                if count:
                    dropped[reason] = dropped.get(reason, 0) + count
        kept = self.steps[-1].kept
        assert kept + sum(dropped.values()) == self.rows, "a row was dropped for no reason"
        return Explanation(recipe=recipe, filter=tree, rows=self.rows, kept=kept, steps=self.steps, dropped=dropped)

    def kept_samples(self) -> list[ExampleRow]:
        return self.samples.get("", [])[:SAMPLES]

    def dropped_samples(self) -> list[ExampleRow]:
        """As many of each reason, so that a rare one shows too."""
        reasons = sorted(reason for reason in self.samples if reason)
        turns = [(turn, sample) for reason in reasons for turn, sample in enumerate(self.samples[reason])]
        return [sample for _, sample in sorted(turns, key=lambda pair: (pair[0], _by_lot(pair[1])))[:SAMPLES]]


def keeps_none(recipe: str, told: Explanation, where: str) -> str:
    """The sentence on a selection without a row: why each was dropped, and how lists of uids met the pool."""
    reasons = "; ".join(f"{reason} {count:,}" for reason, count in told.dropped.items()) or "the pool is empty"
    listed = "".join(
        f" {place_of(one.uids)}: {one.unique:,} listed uids, {one.in_pool:,} of them in the pool." for one in told.lists
    )
    return f"{recipe} keeps none of the {told.rows:,} rows of {where} ({reasons}): nothing to train on.{listed}"


def sample_table(source: PoolSource, samples: Sequence[ExampleRow]) -> pl.DataFrame:
    """uid, text, reason and score of some rows, in random order. Only the parts they are in are read."""
    rows: dict[str, list[int]] = {}
    for sample in samples:
        rows.setdefault(sample.part, []).append(sample.row)

    def of_part(part: str) -> dict[tuple[str, int], str | None]:
        found = source.read(part, ["text"])["text"].gather(rows[part]).to_list()
        return dict(zip([(part, row) for row in rows[part]], found, strict=True))

    texts: dict[tuple[str, int], str | None] = {}
    for some in concurrently(of_part, sorted(rows), at_once=4):  # each loads a part's texts
        texts |= some
    ordered = sorted(samples, key=_by_lot)
    return pl.DataFrame(
        {
            "uid": [sample.uid for sample in ordered],
            "text": [texts[sample.part, sample.row] for sample in ordered],
            "reason": [sample.reason for sample in ordered],
            "score": [sample.score for sample in ordered],
        },
        schema={"uid": pl.String, "text": pl.String, "reason": pl.String, "score": pl.Float64},
    )


def histogram(column: str, edges: Sequence[float], tally: ReportTally, cut: float | None) -> dict[str, Any]:
    """Pairs by score, and how many of each bin are kept; all empty if there is no score to show."""
    return {
        "column": column,
        "edges": list(edges),
        "counts": _sum(tally.kept_scores, tally.dropped_scores),
        "kept": tally.kept_scores,
        "cut": cut if cut is not None and math.isfinite(cut) else None,
    }


def edges_of(ranges: Iterable[tuple[float | None, float | None]]) -> tuple[float, ...]:
    """Equal bins from the smallest to the largest score of all parts; none if there are no scores."""
    lows, highs = [], []
    for low, high in ranges:
        if low is not None and high is not None:
            lows.append(low)
            highs.append(high)
    if not lows:
        return ()
    low, high = min(lows), max(highs)
    width = (high - low) / BINS or 1.0
    return (*(low + width * number for number in range(BINS)), max(high, low + width * BINS))


def _sum(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)] if a and b else a or b


def _by_lot(sample: ExampleRow) -> tuple[int, str, str, int]:
    return sample.lot, sample.uid, sample.part, sample.row
