"""Keeps the best by a score: a fraction of the pool, or a number. Reference: `clip_score` with `--fraction` and `get_threshold`.

The reference sorts all n scores in descending order, takes the one at `int(n * fraction)` (counted from 0) as threshold and
keeps `>=`: one row more than the fraction, and every tie. Its rows without a score count in n and sort last.
"""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RankFilter, ScoreName, register, score_column, score_field, score_title
from datacomp_core.store.fingerprint import short_places

Among = Literal["pool", "survivors"]
OF = "Rank all rows of the pool (as the reference does), or only those that passed the filters before this one."


@register("top_fraction")
class TopFraction(RankFilter):
    """Keeps the best fraction by a score."""

    score: ScoreName = score_field("l14")
    fraction: float = Field(default=0.3, gt=0, le=1, description="Fraction of all ranked rows, including rows without a score.")
    of: Among = Field(default="pool", description=OF)
    cut: Literal["reference", "at_fraction"] = Field(
        default="reference",
        description="reference: the row after the fraction is the threshold, as in get_threshold; at_fraction: its last row is.",
    )

    def columns(self) -> frozenset[str]:
        return frozenset({score_column(self.score)})

    def title(self) -> str:
        return f"top {self.fraction:.4g} of the {self.of} by {score_title(self.score)}"

    def reason(self) -> str:
        return f"below the top {self.fraction:.4g} of the {self.of} by {score_title(self.score)}"

    def expected_share(self, num_rows: int) -> float:
        return self.fraction

    def is_relative(self) -> bool:
        return self.of == "survivors"

    def label(self) -> str:
        return f"top_{self.fraction:g}_{short_places(self.score)}"

    def score_expression(self) -> pl.Expr:
        return pl.col(score_column(self.score))

    def rank(self, num_rows: int) -> tuple[int, bool]:
        number = int(num_rows * self.fraction)
        if self.cut == "reference" and number < num_rows:
            return number, False
        return number - 1, True

    def among(self) -> Among:
        return self.of


@register("top_count")
class TopCount(RankFilter):
    """Keeps this many of the best by a score, and all ties with the last one."""

    score: ScoreName = score_field("l14")
    count: int = Field(default=1_000_000, ge=1, description="Rows.")
    of: Among = Field(default="survivors", description=OF)

    def columns(self) -> frozenset[str]:
        return frozenset({score_column(self.score)})

    def title(self) -> str:
        return f"best {self.count:,} of the {self.of} by {score_title(self.score)}"

    def reason(self) -> str:
        return f"not among the best {self.count:,} of the {self.of} by {score_title(self.score)}"

    def expected_share(self, num_rows: int) -> float:
        return min(1.0, self.count / max(num_rows, 1))

    def label(self) -> str:
        return f"top_{self.count}_{short_places(self.score)}"

    def score_expression(self) -> pl.Expr:
        return pl.col(score_column(self.score))

    def rank(self, num_rows: int) -> tuple[int, bool]:
        return self.count - 1, True

    def among(self) -> Among:
        return self.of
