"""Filters captions by length in characters. Reference: `len(text) > 5` of `basic_filter`."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, register


@register("characters")
class Characters(RowFilter):
    """Keeps captions with at least this many characters (Unicode code points)."""

    at_least: int = Field(default=6, ge=1, description="Code points; the reference's basic filter requires more than 5.")

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"{self.at_least} characters or more"

    def reason(self) -> str:
        return f"fewer than {self.at_least} characters"

    def expression(self) -> pl.Expr:
        return pl.col("text").str.len_chars() >= self.at_least
