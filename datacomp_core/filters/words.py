"""Filters captions by length in words. Reference: `len(text.split()) > 2` of `basic_filter`."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, register

SPACE, NO_SPACE = r"[\s\x1c-\x1f]", r"[^\s\x1c-\x1f]"
WORD = f"{NO_SPACE}+"
"""Matches the words that Python's `str.split()` returns. It takes U+001C to U+001F as white space; regular expressions do not."""


FEW = 20
"""Up to this number, searching for that many words is several times faster than counting all."""


@register("words")
class Words(RowFilter):
    """Keeps captions with at least this many words (separated by white space)."""

    at_least: int = Field(default=3, ge=1, description="Words; the reference's basic filter requires more than 2.")

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"{self.at_least} words or more"

    def reason(self) -> str:
        return f"fewer than {self.at_least} words"

    def expression(self) -> pl.Expr:
        if self.at_least > FEW:
            return pl.col("text").str.count_matches(WORD) >= self.at_least
        return pl.col("text").str.contains(f"(?:{NO_SPACE}{SPACE}(?s:.)*?){{{self.at_least - 1}}}{NO_SPACE}")
