"""Rows by lot. A row's lot is a hash of its uid and the seed: the same in every pool and on every machine.

So a smaller draw with the same seed lies inside a larger one, and a uid that stands in a pool twice is kept twice or never.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core import uid
from datacomp_core.filters.base import Ranked, locked

UNSIGNED = npt.NDArray[np.uint64]


class Random(Ranked):
    """Keeps a random fraction."""

    kind: Literal["random"] = locked("random")
    share: float = Field(default=0.3, gt=0, le=1, description="Of all rows ranked.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Another seed, another draw.")
    of: Literal["pool", "survivors"] = Field(
        default="survivors", description="Draw from all rows of the pool, or from those that passed the filters before this one."
    )

    def columns(self) -> frozenset[str]:
        return frozenset({"uid"})

    def title(self) -> str:
        return f"random {self.share:.4g} of the {self.of} (seed {self.seed})"

    def reason(self) -> str:
        return f"not drawn (random {self.share:.4g} of the {self.of}, seed {self.seed})"

    def score_expression(self) -> pl.Expr:
        return lot(self.seed)

    def rank(self, num_rows: int) -> tuple[int, bool]:
        return int(num_rows * self.share) - 1, True

    def among(self) -> Literal["pool", "survivors"]:
        return self.of


def lot(seed: int) -> pl.Expr:
    """Every row's lot, uniform over 64 bits."""
    return pl.col("uid").map_batches(lambda uids: pl.Series(lots(uid.pack(uids), seed)), return_dtype=pl.UInt64)


def lots(uids: uid.Uids, seed: int) -> UNSIGNED:
    """Two rounds of splitmix64 over the uid's halves, keyed with the seed; shape (n,)."""
    start = mixed_bits(np.array([seed], np.uint64))
    return mixed_bits(mixed_bits(uids["f0"] ^ start) ^ uids["f1"])


def mixed_bits(value: UNSIGNED) -> UNSIGNED:
    """splitmix64's step (Steele, Lea and Flood 2014); it wraps around on purpose."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
