"""Keeps captions that name a class of ImageNet-21k. Reference: `does_contain_text_entity` of `text_based`.

There a word counts if the first WordNet synset that nltk finds for it, of whatever part of speech, has the offset of a class.
That depends on the word alone, so all such words are derived once (tests/parity/derive_imagenet21k_words.py) and looked up.
As there, words are separated by white space and lower-cased: `dog,` is not `dog`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import ClassVar, Literal

import polars as pl

from datacomp_core.filters.base import BatchFilter, locked, register
from datacomp_core.filters.words import WORD

TABLE = "imagenet21k_words.parquet"


@register("imagenet_words")
class ImagenetWords(BatchFilter):
    """Keeps captions with a word that is a class of ImageNet-21k."""

    vocabulary: Literal["imagenet-21k"] = locked("imagenet-21k")
    cost: ClassVar[int] = 5

    def columns(self) -> frozenset[str]:
        return frozenset({"text"})

    def title(self) -> str:
        return f"a word of {self.vocabulary}"

    def reason(self) -> str:
        return f"no word of {self.vocabulary}"

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        numbered = rows.select("text").with_row_index("row")
        found = pl.col("text").str.to_lowercase().str.extract_all(WORD)
        words = numbered.select("row", word=found).explode("word").filter(pl.col("word").is_in(vocabulary().implode()))
        hit = words["row"].unique()
        yes = pl.when(pl.col("text").is_not_null()).then(pl.col("row").is_in(hit.implode()))
        return numbered.select(yes.alias("yes")).to_series()


@cache
def vocabulary() -> pl.Series:
    """Every word that hits, in lower case; loaded once per process."""
    return pl.read_parquet(str(resources.files("datacomp_core.filters") / TABLE))["word"]
