"""Draws rows at random. A row's sampling key is a hash of its uid and the seed: the same in every pool and on every machine.
So a smaller draw with the same seed is part of a larger one, and a uid that occurs twice in a pool is kept twice or never.
"""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import Field

from datacomp_core import uid
from datacomp_core.filters.base import RankFilter, register
from datacomp_core.kind_registration import ControlFilter
from datacomp_core.sampling_key import sampling_keys


@register(ControlFilter.RANDOM.value)
class RandomFraction(RankFilter):
    """Keeps a random fraction."""

    share: float = Field(default=0.3, gt=0, le=1, description="Fraction of all ranked rows.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the draw.")
    of: Literal["pool", "survivors"] = Field(
        default="survivors", description="Draw from all rows of the pool, or from those that passed the filters before this one."
    )

    def columns(self) -> frozenset[str]:
        return frozenset({"uid"})

    def title(self) -> str:
        return f"random {self.share:.4g} of the {self.of} (seed {self.seed})"

    def reason(self) -> str:
        return f"not drawn (random {self.share:.4g} of the {self.of}, seed {self.seed})"

    def expected_share(self, num_rows: int) -> float:
        return self.share

    def is_relative(self) -> bool:
        return self.of == "survivors"

    def score_expression(self) -> pl.Expr:
        return sampling_key_of(self.seed)

    def rank(self, num_rows: int) -> tuple[int, bool]:
        return int(num_rows * self.share) - 1, True

    def among(self) -> Literal["pool", "survivors"]:
        return self.of


def sampling_key_of(seed: int) -> pl.Expr:
    """Every row's sampling key, uniform over 64 bits."""
    return pl.col("uid").map_batches(lambda uids: pl.Series(sampling_keys(uid.pack(uids), seed)), return_dtype=pl.UInt64)
