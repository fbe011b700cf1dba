"""Keeps captions in one language, by fastText's lid.176 (Joulin et al. 2016). Reference: `get_fasttext_language`.

As there, a newline becomes a space and the best label counts, however unsure. `lid.176.bin` is the reference's model;
`lid.176.ftz` is the same one quantized, which this package contains.
"""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import Field

from datacomp_core.fasttext.model import language_model
from datacomp_core.filters.base import BatchFilter, register


@register("language")
class Language(BatchFilter):
    """Keeps captions in one language, by fastText."""

    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code as lid.176 has it.")
    model: Literal["lid.176.ftz", "lid.176.bin"] = Field(
        default="lid.176.ftz", description="lid.176.bin is the reference's and is downloaded (126 MB); lid.176.ftz is included."
    )

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"language {self.language} ({self.model})"

    def reason(self) -> str:
        return f"language is not {self.language} ({self.model})"

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        captions = rows["text"]
        known = captions.fill_null("").str.replace_all("\n", " ", literal=True)
        verdicts = language_model(self.model).languages(known) == self.language
        return verdicts.set(captions.is_null(), None)
