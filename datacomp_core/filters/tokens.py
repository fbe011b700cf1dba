"""Filters captions by length in fastText tokens. Reference: `len(fasttext.tokenize(text)) > 1` of `caption_filter` (image_based).

fastText splits at six ASCII characters only, and each newline is a separate token, its end of a sentence.
"""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, register

TOKEN = r"\n|[^ \n\r\t\x0b\x0c\x00]+"


@register("tokens")
class Tokens(RowFilter):
    """Keeps captions with at least this many fastText tokens."""

    tokens_at_least: int = Field(default=2, ge=1, description="Tokens; the reference's image-based filter requires more than 1.")

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"{self.tokens_at_least} fastText tokens or more"

    def reason(self) -> str:
        return f"fewer than {self.tokens_at_least} fastText tokens"

    def expression(self) -> pl.Expr:
        return pl.col("text").str.count_matches(TOKEN) >= self.tokens_at_least
