"""Prepares the columns of a sample for drawing: numbers with a histogram, words as codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

BINS = 60
MAX_WORDS = 60
MISSING = np.iinfo(np.uint16).max
OTHER = "other"
HIDDEN = ("uid", "url", "text", "sha256", "part", "row")
FIRST_WORDS = ("language", "host")


class WordColumn(NamedTuple):
    """A column of words: `codes` (n,) are indices into `values`, or MISSING. `has_other`: the last value stands for rarer
    ones."""

    values: list[str]
    codes: npt.NDArray[np.uint16]
    has_other: bool


def number_columns(rows: pl.DataFrame) -> dict[str, npt.NDArray[np.float32]]:
    """Columns of numbers as float32 (n,), NaN where there is no value; scores first."""
    known = [name for name in rows.columns if name not in HIDDEN and (rows[name].dtype.is_numeric())]
    known = [name for name in known if rows[name].null_count() < rows.height]
    ordered = sorted(known, key=lambda name: (not name.endswith("_score"), known.index(name)))
    return {name: rows[name].cast(pl.Float32).fill_null(np.nan).to_numpy() for name in ordered}


def word_columns(rows: pl.DataFrame) -> dict[str, WordColumn]:
    """Return columns with few distinct words; for language and host the most frequent ones."""
    found: dict[str, WordColumn] = {}
    for name in rows.columns:
        if name in HIDDEN or not (rows[name].dtype == pl.String or rows[name].dtype == pl.Boolean):
            continue
        made = words_of(rows[name].cast(pl.String), force=name in FIRST_WORDS)
        if made is not None:
            found[name] = made
    return found


def words_of(column: pl.Series, *, force: bool = False) -> WordColumn | None:
    """The codes of a column, the most frequent word first; None if it has too many distinct ones."""
    counted = column.drop_nulls().value_counts(sort=True)
    if not counted.height or (counted.height > MAX_WORDS and not force):
        return None
    values = counted[column.name].head(MAX_WORDS).to_list()
    has_other = counted.height > MAX_WORDS
    table = pl.DataFrame({"word": values, "code": np.arange(len(values), dtype=np.uint16)})
    codes = column.to_frame("word").join(table, on="word", how="left", maintain_order="left")["code"].to_numpy(writable=True)
    codes = np.where(np.isnan(codes), MISSING, codes).astype(np.uint16) if codes.dtype.kind == "f" else codes.astype(np.uint16)
    if has_other:
        codes[(codes == MISSING) & column.is_not_null().to_numpy()] = len(values)
        values = [*values, OTHER]
    return WordColumn(values, codes, has_other)


def histogram(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Return equal bins over the finite values; the first and last bin include the outermost thousandth on each side."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"edges": [], "counts": [], "low": None, "high": None, "missing": len(values)}
    low, high = (float(q) for q in np.quantile(finite, (0.001, 0.999)))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    if (finite == np.round(finite)).all() and high - low < BINS:  # whole numbers: one bin each
        edges = np.arange(low, high + 2)
        high = float(edges[-1])
    else:
        high = high if high > low else low + 1
        edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(finite, low, high), edges)
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "counts": counts.tolist(),
        "low": float(finite.min()),
        "high": float(finite.max()),
        "missing": int(len(values) - len(finite)),
    }
