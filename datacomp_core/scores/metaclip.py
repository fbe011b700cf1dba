"""Balances the topics of captions. Source: Xu et al. 2024, Demystifying CLIP Data (arXiv:2309.16671), MetaCLIP.

There a caption is matched with the entries of a word list; an entry with `count` captions is drawn for each of them with
probability t / max(count, t), and a pair is kept if any of its entries is. With u uniform for each pair and entry, that is
count * u <= t for one of them: so the score is the largest 1 / (count * u), and a threshold of 1 / t is the balance at t,
for any t. Matching is by Aho-Corasick (polars), on words, with their code's spacing of punctuation.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.pool_source import PoolSource
from datacomp_core.sampling_key import mixed_bits, sampling_keys
from datacomp_core.scores.base import Score, ScoreContext, register
from datacomp_core.untrusted_documents import parse_json
from datacomp_core.word_lists import TextsName, texts

PUNCTUATION = r"([,.;:?!`])"
SPACES = r"[\t\n\r]"


@register("metaclip")
class MetaClip(Score):
    """The largest 1 / (count * u) over the entries that a caption holds; null if it holds none."""

    paper = "Xu et al. 2024, MetaCLIP (arXiv:2309.16671)"
    entries: TextsName = Field(
        default="imagenet21k",
        description="The word list: imagenet21k (74,796 words, included), or a file (.txt, .json) such as MetaCLIP's.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the draw.")

    def columns(self) -> tuple[str, ...]:
        return "uid", "text"

    def prepare(self, context: ScoreContext) -> Counter[int]:
        """How many captions of the pool hold each entry."""
        total: Counter[int] = Counter()
        for _, counted in context.map(partial(_counted, self.entries, context.source), context.names, "parts counted"):
            total.update(counted)
        return total

    def of_part(self, source: PoolSource, part: str, prepared: Counter[int]) -> npt.NDArray[np.float64]:
        frame = source.read(part, self.columns())
        found = matches(frame["text"], self.entries)
        rows, entries = found["row"].to_numpy(), found["entry"].to_numpy()
        keys = sampling_keys(uid.pack(frame["uid"]), self.seed)[rows]
        chance = (mixed_bits(keys ^ entries.astype(np.uint64)) >> np.uint64(11)).astype(np.float64)
        uniform = (chance + 1) / 2**53  # 0 < u <= 1
        known = np.array(list(prepared), np.int64)
        counts = np.zeros(int(known.max(initial=0)) + 1)
        counts[known] = list(prepared.values())
        scores = np.full(frame.height, -np.inf)
        np.maximum.at(scores, rows, 1 / (counts[entries] * uniform))
        return np.where(np.isfinite(scores), scores, np.nan)


def _counted(entries: str, source: PoolSource, part: str) -> dict[int, int]:
    found = matches(source.read(part, ["text"])["text"], entries)
    counts = found["entry"].value_counts()
    return dict(zip(counts["entry"].to_list(), counts["count"].to_list(), strict=True))


def matches(captions: pl.Series, entries: str) -> pl.DataFrame:
    """`row`, `entry` (number in the list) of every entry that a caption holds as whole words, each once."""
    known = _known(entries)
    words = pl.col("text").str.replace_all(PUNCTUATION, " $1 ").str.replace_all(SPACES, " ")
    spaced = pl.concat_str([pl.lit(" "), words, pl.lit(" ")]).alias("text")
    frame = pl.DataFrame({"text": captions}).with_row_index("row").select(pl.col("row").cast(pl.Int64), spaced)
    held = pl.col("text").str.extract_many(known["spaced"].implode(), overlapping=True)
    found = frame.select("row", spaced=held).explode("spaced").drop_nulls().unique(maintain_order=True)
    return found.join(known, on="spaced", maintain_order="left").select("row", "entry")


@cache
def _known(entries: str) -> pl.DataFrame:
    """Entries with the spaces between which they are looked for; loaded once a process."""
    if entries == "imagenet21k":
        words = pl.read_parquet(str(resources.files("datacomp_core.filters") / "imagenet21k_words.parquet"))["word"].to_list()
    else:
        words = _read(entries)
    frame = pl.DataFrame({"spaced": [f" {word} " for word in words]}, schema={"spaced": pl.String})
    return frame.unique(maintain_order=True).with_row_index("entry").with_columns(pl.col("entry").cast(pl.Int64))


def _read(entries: str) -> list[str]:
    data, path = texts(entries), entries.partition("#")[0]
    found: Any = parse_json(data, path) if path.endswith(".json") else data.splitlines()
    words = [word.strip() for word in found if isinstance(word, str) and word.strip()] if isinstance(found, list) else []
    if not words:
        raise DataError(f"{path} has no entries: write one entry per line, or a JSON list of texts.")
    return words
