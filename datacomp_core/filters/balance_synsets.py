"""Text-based sampling: draws that balance the ImageNet-21k classes that captions name. Source: Gadre et al. 2023, DataComp
(arXiv:2304.14108), appendix: p proportional to the mean or the largest N_j^(alpha - 1) over the synsets j of a caption.

A word counts as in `imagenet_words`: by its first WordNet synset. Several words of one synset count once.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from datacomp_core.filters.balanced_draw import BalancedDraw, RowConcepts
from datacomp_core.filters.base import GlobalView, register
from datacomp_core.filters.imagenet_words import TABLE
from datacomp_core.filters.words import WORD


@register("balance_synsets")
class BalanceSynsets(BalancedDraw):
    """Samples with repeats; captions about rare ImageNet-21k classes are drawn more often. It must be the outermost filter."""

    over: Literal["mean", "max"] = Field(default="mean", description="For several synsets: their mean weight, or the largest.")

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def missing(self) -> str:
        return "no word of a class in the caption"

    def aggregate(self) -> Literal["mean", "max"]:
        return self.over

    def concepts(self, view: GlobalView, part: str) -> RowConcepts:
        frame = view.frame(part, ["text"]).with_columns(pl.col("row").cast(pl.Int64))
        words = frame.select("row", word=pl.col("text").str.to_lowercase().str.extract_all(WORD)).explode("word").drop_nulls()
        found = words.join(synsets(), on="word").select("row", "synset").unique().sort("row", "synset")
        rows = found["row"].to_numpy()
        return RowConcepts(rows, found["synset"].to_numpy(), np.setdiff1d(frame["row"].to_numpy(), rows))


@cache
def synsets() -> pl.DataFrame:
    """The table of `word` and `synset` (WordNet 3.0 offset) for every class name; loaded once per process."""
    return pl.read_parquet(str(resources.files("datacomp_core.filters") / TABLE)).with_columns(pl.col("synset").cast(pl.Int64))
