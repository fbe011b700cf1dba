"""Keeps scores of at least a given value. Reference: `clip_score` with `--threshold`; the paper's Table 16 lists values."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, ScoreName, register, score_column, score_field, score_title
from datacomp_core.store.fingerprint import short_places


@register("threshold")
class Threshold(RowFilter):
    """Keeps rows with at least this score."""

    score: ScoreName = score_field("l14")
    at_least: float = Field(
        default=0.243, allow_inf_nan=False, description="0.243 is the paper's top 30 % of L/14; 0.281 that of B/32."
    )

    def columns(self) -> frozenset[str]:
        return frozenset({score_column(self.score)})

    def numeric_columns(self) -> frozenset[str]:
        return self.columns()

    def title(self) -> str:
        return f"{score_title(self.score)} of {self.at_least:g} or more"

    def reason(self) -> str:
        return f"{score_title(self.score)} under {self.at_least:g}"

    def label(self) -> str:
        return f"{short_places(self.score)}_of_{self.at_least:g}"

    def fixed_cutoff(self) -> tuple[str, float]:
        return score_column(self.score), self.at_least

    def expression(self) -> pl.Expr:
        # The bound is compared in the column's own precision, as numpy does: float32(0.7) passes 0.7.
        return pl.col(score_column(self.score)).fill_nan(None) >= self.at_least
