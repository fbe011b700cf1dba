"""Keeps everything. Reference: `no_filter`."""

from __future__ import annotations

import polars as pl

from datacomp_core.filters.base import RowFilter, register
from datacomp_core.kind_registration import ControlFilter


@register(ControlFilter.EVERYTHING.value)
class Everything(RowFilter):
    """Keeps every row of the pool."""

    def columns(self) -> frozenset[str]:
        return frozenset()

    def title(self) -> str:
        return "everything"

    def reason(self) -> str:
        return "nothing is dropped"

    def expected_share(self, num_rows: int) -> float:
        return 1.0

    def expression(self) -> pl.Expr:
        return pl.lit(True)
