"""Describes the captions of a set: how many, how long, in which languages, with which words; one group for each source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core import caption_sets
from datacomp_core.artifacts import Captions
from datacomp_core.errors import DataError
from datacomp_core.leaderboard.board.composition import Quantiles, ValueShare, languages, quantiles_of, top, top_words
from datacomp_core.leaderboard.entries.data_check import spread
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

MAX_PARTS = 32
MAX_ROWS = 50_000
MEASURES = {
    "characters": pl.col("text").str.len_chars(),
    "words": pl.col("text").str.strip_chars().str.split(" ").list.len(),
}


class SourceStats(BaseModel):
    """One source. Counts are of all its captions; the rest is of a sample."""

    model_config = ConfigDict(frozen=True)
    source: str
    num_captions: int
    num_rows: int = Field(description="Rows of the pool that have one.")
    share: float = Field(description="Of the pool's rows.")
    num_sampled: int
    measures: dict[str, Quantiles]
    languages: list[ValueShare]
    words: list[ValueShare]


def stats(made: Captions, folder: Folder) -> list[SourceStats]:
    """A group for each source, in order of name. DataError if the set has no file of captions."""
    names = [name.removesuffix(".parquet") for name in (folder / caption_sets.CAPTIONS).files(".parquet")]
    if not names:
        raise DataError(f"{folder} has no captions.")
    captions, rows = Counter[str](), Counter[str]()
    for part in names:
        for source, number, distinct in _counted(folder, part).iter_rows():
            captions[source] += number
            rows[source] += distinct
    sample = pl.concat([_some(folder, part, made.scores, len(names)) for part in spread(names, MAX_PARTS)])
    return [
        _of(source, (captions[source], rows[source], made.num_samples), made.scores, sample.filter(pl.col("source") == source))
        for source in sorted(captions)
    ]


def stats_of_pool(source: PoolSource, scores: Sequence[str], num_samples: int) -> SourceStats:
    """The group `raw`: the pool's own captions. The number is counted up to `MAX_PARTS` parts, and estimated from these above."""
    names = spread(source.parts(), MAX_PARTS)
    pieces, rows, captions = list[pl.DataFrame](), 0, 0
    for part in names:
        table = source.read(part, ["text", *scores])
        there = table.filter(pl.col("text").str.strip_chars() != "")
        rows, captions = rows + table.height, captions + there.height
        pieces.append(there.gather_every(max(1, -(-there.height * len(names) // MAX_ROWS))))
    number = round(captions * num_samples / rows) if rows else 0
    return _of(caption_sets.RAW, (number, number, num_samples), scores, pl.concat(pieces))


def _counted(folder: Folder, part: str) -> pl.DataFrame:
    found = caption_sets.captions_of(folder, part)
    return found.group_by("source").agg(pl.len(), pl.col("row").n_unique().alias("rows"))


def _some(folder: Folder, part: str, scores: Sequence[str], num_parts: int) -> pl.DataFrame:
    found = caption_sets.captions_of(folder, part, scores)
    most = max(1, MAX_ROWS // min(MAX_PARTS, num_parts))
    return found.gather_every(max(1, -(-found.height // most)))


def _of(source: str, numbers_of: tuple[int, int, int], scores: Sequence[str], sample: pl.DataFrame) -> SourceStats:
    """`numbers_of`: captions, rows of the pool with one, rows of the pool."""
    captions, rows, num_samples = numbers_of
    columns = {**MEASURES, **{name: pl.col(name) for name in scores}}
    found = {name: sample.select(v=value.cast(pl.Float64).fill_nan(None))["v"].drop_nulls() for name, value in columns.items()}
    return SourceStats(
        source=source,
        num_captions=captions,
        num_rows=rows,
        share=rows / num_samples if num_samples else 0.0,
        num_sampled=sample.height,
        measures={name: quantiles_of(values) for name, values in found.items() if len(values)},
        languages=top(languages(sample["text"]), 5),
        words=top_words(sample["text"], 8),
    )


def lines(found: Sequence[SourceStats]) -> list[tuple[str, ...]]:
    """The groups as a table: source, captions, rows, share, words (10 %, median, 90 %), languages, words."""
    return [
        (
            one.source,
            f"{one.num_captions:,}",
            f"{one.num_rows:,}",
            f"{one.share:.1%}",
            " ".join(f"{value:.0f}" for value in _words(one)),
            ", ".join(f"{share.value} {share.share:.0%}" for share in one.languages),
            ", ".join(share.value for share in one.words),
        )
        for one in found
    ]


def _words(one: SourceStats) -> tuple[float, ...]:
    found = one.measures.get("words")
    return (found.low, found.median, found.high) if found else ()
