"""Captions in one language, by fastText's lid.176 (Joulin et al. 2016). Reference: `get_fasttext_language`.

As there, a newline becomes a space and the best label counts, however unsure. `lid.176.bin` is the reference's model;
`lid.176.ftz` is the same one quantized, which comes with an installed package and needs no download.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import polars as pl
from pydantic import Field

from datacomp_core.assets import asset
from datacomp_core.filters.base import Batch, locked


class Language(Batch):
    """Keeps captions in one language, as fastText sees it."""

    kind: Literal["language"] = locked("language")
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code as lid.176 has it.")
    model: Literal["lid.176.ftz", "lid.176.bin"] = Field(
        default="lid.176.ftz", description="lid.176.bin is the reference's and is downloaded (126 MB); lid.176.ftz is at hand."
    )

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"language {self.language} ({self.model})"

    def reason(self) -> str:
        return f"language is not {self.language} ({self.model})"

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        predict, wanted = _model(self.model).predict, (f"__label__{self.language}",)
        captions = rows["text"].drop_nulls().unique(maintain_order=True)
        lines = captions.str.replace_all("\n", " ", literal=True)
        verdicts = pl.Series([predict(line)[0] == wanted for line in lines], dtype=pl.Boolean)
        known = pl.DataFrame({"text": captions, "yes": verdicts})
        return rows.select("text").join(known, on="text", how="left", maintain_order="left")["yes"]


@cache
def _model(name: str) -> Any:
    """Loaded once a process."""
    import fasttext

    return fasttext.load_model(str(asset(name)))
