"""Makes a subset of a given size: random if there are more survivors, with repeats if there are fewer. The rules allow repeats
to up-weight a pair. Every survivor is repeated equally often, and the rest is drawn at random.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import AnyFilter, Filter, RankFilter, register
from datacomp_core.filters.random_fraction import sampling_key_of


@register("sample_to")
class SampleTo(RankFilter):
    """Samples what a filter keeps to a given number of rows. It must be the outermost filter."""

    is_outermost: ClassVar[bool] = True
    filter: Annotated[AnyFilter, Field(description="The filter whose rows may be drawn.")]
    num_samples: int = Field(default=1_000_000, ge=1, description="Rows of the subset, including repeats.")
    at_most_times: int = Field(default=1, ge=1, description="Maximum number of repeats of one row, if there are too few.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the draw.")

    def columns(self) -> frozenset[str]:
        return frozenset({"uid"})

    def title(self) -> str:
        return f"{self.num_samples:,} at random (seed {self.seed})"

    def reason(self) -> str:
        return f"not drawn ({self.num_samples:,} at random, seed {self.seed})"

    def expected_share(self, num_rows: int) -> float:
        inner = self.filter.expected_share(num_rows)
        wanted = self.num_samples / max(num_rows, 1)
        return wanted if inner is None else min(wanted, inner * self.at_most_times)

    def label(self) -> str:
        return f"{self.filter.label()}_to_{self.num_samples}"

    def score_expression(self) -> pl.Expr:
        return sampling_key_of(self.seed)

    def draws_from(self) -> Filter:
        return self.filter

    def full_rounds(self, num_rows: int) -> int:
        return min(self.num_samples // num_rows, self.at_most_times) if num_rows else 0

    def rank(self, num_rows: int) -> tuple[int, bool]:
        if self.full_rounds(num_rows) == self.at_most_times:
            return -1, False
        return self.num_samples - self.full_rounds(num_rows) * num_rows - 1, True

    def among(self) -> Literal["pool", "survivors"]:
        return "survivors"
