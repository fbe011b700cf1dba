"""Keeps captions in one language, by Google's CLD3. Reference: `get_gcld3_language`, used for its LAION-2B reproduction only.

`gcld3` of the reference does not build on today's Python; the package `cld3-py` is a maintained fork with the same model and
the same module name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import polars as pl
from pydantic import Field

from datacomp_core.errors import SpecError
from datacomp_core.filters.base import BatchFilter, register

MAX_BYTES = 1000


@register("language_cld3")
class LanguageCld3(BatchFilter):
    """Keeps captions in one language, by CLD3. Needs the package cld3-py."""

    cld3_language: str = Field(default="en", min_length=2, description="Language code as CLD3 has it.")

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"language {self.cld3_language} (CLD3)"

    def reason(self) -> str:
        return f"language is not {self.cld3_language} (CLD3)"

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        model = _model()
        captions = rows["text"].drop_nulls().unique(maintain_order=True)
        lines = captions.str.replace_all("\n", " ", literal=True)
        verdicts = [model.FindLanguage(text=line).language == self.cld3_language for line in lines]
        known = pl.DataFrame({"text": captions, "yes": pl.Series(verdicts, dtype=pl.Boolean)})
        return rows.select("text").join(known, on="text", how="left", maintain_order="left")["yes"]


@cache
def _model() -> Any:
    """Loaded once per process, with the reference's limits."""
    try:
        import gcld3
    except ImportError as problem:
        raise SpecError("The filter language_cld3 (recipe laion2b) needs the package cld3-py: pip install cld3-py.") from problem
    return gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=MAX_BYTES)
