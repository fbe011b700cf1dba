"""Compares groups of pairs: captions, languages, words, hosts, image sizes and scores, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.fasttext.model import language_model

MAX_LANGUAGE_ROWS = 20_000
NUM_TOP = 12
NUM_BINS = 40
PRIOR = 0.5
LEAST_Z = 3.0  # a few of some thousand words are past 2 by chance
MEASURES: dict[str, pl.Expr] = {
    "caption, characters": pl.col("text").str.len_chars(),
    "caption, words": pl.col("text").str.split(" ").list.len(),
    "image, shorter side": pl.min_horizontal("original_width", "original_height"),
    "image, aspect ratio": pl.max_horizontal("original_width", "original_height")
    / pl.min_horizontal("original_width", "original_height"),
}
WORD = r"[\p{L}\p{N}][\p{L}\p{N}'’-]*"


class Quantiles(BaseModel):
    """Of one measure over the rows that have it."""

    model_config = ConfigDict(frozen=True)
    low: float = Field(description="10 %.")
    median: float
    high: float = Field(description="90 %.")


class ValueShare(BaseModel):
    """One value (a language, a host, a word) and the share of a group's rows that have it."""

    model_config = ConfigDict(frozen=True)
    value: str
    share: float


class CompositionGroup(BaseModel):
    """The composition of one group of sampled rows."""

    model_config = ConfigDict(frozen=True)
    name: str
    num_rows: int
    measures: dict[str, Quantiles]
    scores: dict[str, Quantiles]
    languages: list[ValueShare]
    hosts: list[ValueShare]
    words: list[ValueShare]
    histograms: dict[str, list[int]] = Field(default_factory=dict, description="Counts by measure or score, between the edges.")


class Composition(BaseModel):
    """Groups with the same measures. `edges` are common to all groups, by measure or score."""

    model_config = ConfigDict(frozen=True)
    groups: list[CompositionGroup]
    edges: dict[str, list[float]]
    num_sampled: int
    num_pool: int


class Contrast(BaseModel):
    """A value that two groups have unequally: its share in each, and the log-odds ratio with a weak prior."""

    model_config = ConfigDict(frozen=True)
    value: str
    first: float
    second: float
    log_odds: float


def measure(groups: Mapping[str, pl.DataFrame], scores: Sequence[str], num_pool: int) -> Composition:
    """Measure groups of sampled rows (columns of `sample`); the first group is the whole and sets the edges."""
    whole = next(iter(groups.values()))
    columns = {**MEASURES, **{score: pl.col(score) for score in scores}}
    edges = {name: _edges(whole.select(value.alias("v"))["v"]) for name, value in columns.items()}
    edges = {name: bounds for name, bounds in edges.items() if bounds}
    return Composition(
        groups=[_group(name, rows, {n: columns[n] for n in edges}, scores, edges) for name, rows in groups.items()],
        edges=edges,
        num_sampled=len(whole),
        num_pool=num_pool,
    )


def _edges(values: pl.Series) -> list[float]:
    """Bins between the 0.5 % and 99.5 % quantiles: one outlier must not hide everything else."""
    values = values.drop_nulls().cast(pl.Float64)
    values = values.filter(values.is_finite())
    if not len(values):
        return []
    low, high = (float(values.quantile(q) or 0.0) for q in (0.005, 0.995))
    return np.linspace(low, high if high > low else low + 1, NUM_BINS + 1).tolist()


def _group(
    name: str, rows: pl.DataFrame, columns: Mapping[str, pl.Expr], scores: Sequence[str], edges: Mapping[str, list[float]]
) -> CompositionGroup:
    values = {n: rows.select(value.cast(pl.Float64).alias("v"))["v"].drop_nulls() for n, value in columns.items()}
    known = {n: found for n, found in values.items() if len(found)}
    quantiles = {n: quantiles_of(found) for n, found in known.items()}
    return CompositionGroup(
        name=name,
        num_rows=len(rows),
        measures={n: q for n, q in quantiles.items() if n not in scores},
        scores={n: q for n, q in quantiles.items() if n in scores},
        languages=top(languages(rows["text"])),
        hosts=top(rows["url"].str.extract(r"^[a-z]+://([^/:?#]+)", 1)),
        words=top_words(rows["text"]),
        histograms={
            n: np.histogram(np.clip(found.to_numpy(), edges[n][0], edges[n][-1]), bins=edges[n])[0].tolist()
            for n, found in known.items()
        },
    )


def quantiles_of(values: pl.Series) -> Quantiles:
    low, median, high = (float(values.quantile(q, "linear") or 0.0) for q in (0.1, 0.5, 0.9))
    return Quantiles(low=low, median=median, high=high)


def top(values: pl.Series, number: int = NUM_TOP) -> list[ValueShare]:
    """The commonest values, by share of the rows that have any."""
    counted = (
        values.drop_nulls().alias("value").to_frame().group_by("value").len("n").sort("n", "value", descending=[True, False])
    )
    whole = int(counted["n"].sum()) or 1
    return [ValueShare(value=str(value), share=count / whole) for value, count in counted.head(number).iter_rows()]


def languages(captions: pl.Series) -> pl.Series:
    """fastText's best label (lid.176) of captions: of the first ones, which are a sample, since rows are in order of uid."""
    texts = captions.drop_nulls().head(MAX_LANGUAGE_ROWS).str.replace_all("\n", " ", literal=True)
    texts = texts.filter(texts.str.strip_chars() != "")
    return language_model("lid.176.ftz").languages(texts).drop_nulls().alias("language")


def words(captions: pl.Series) -> pl.DataFrame:
    """Columns word and n: in how many captions each word stands, case aside."""
    found = captions.drop_nulls().str.to_lowercase().str.extract_all(WORD).list.unique().explode().drop_nulls()
    return found.alias("word").to_frame().group_by("word").len("n")


def top_words(captions: pl.Series, number: int = NUM_TOP) -> list[ValueShare]:
    """The commonest words of more than three letters, by share of the captions."""
    counted = words(captions).filter(pl.col("word").str.len_chars() > 3).sort("n", "word", descending=[True, False])
    whole = len(captions) or 1
    return [ValueShare(value=word, share=n / whole) for word, n in counted.head(number).iter_rows()]


def contrast(first: pl.Series, second: pl.Series, number: int = NUM_TOP) -> list[Contrast]:
    """The words that most tell two groups of captions apart: the first's own, then the second's.

    Ranked by the log-odds ratio over its standard error (counts plus a prior of one half), so a rare word needs more.
    """
    sizes = (len(first), len(second))
    both = words(first).join(words(second), on="word", how="full", coalesce=True).fill_null(0)
    a, b = (both[name].cast(pl.Float64) + PRIOR for name in ("n", "n_right"))
    odds = (a / (sizes[0] + 2 * PRIOR - a)).log() - (b / (sizes[1] + 2 * PRIOR - b)).log()
    ranked = both.with_columns(odds=odds, z=odds / (1 / a + 1 / b).sqrt()).sort("z", "word")
    ends = pl.concat(
        [ranked.tail(number).filter(pl.col("z") > LEAST_Z).reverse(), ranked.head(number).filter(pl.col("z") < -LEAST_Z)]
    )
    return [
        Contrast(
            value=row["word"], first=row["n"] / max(sizes[0], 1), second=row["n_right"] / max(sizes[1], 1), log_odds=row["odds"]
        )
        for row in ends.iter_rows(named=True)
    ]
