"""Converts table columns of any origin to the types that filters and scores expect. Unambiguous types are cast; others are
rejected in one sentence.
"""

from __future__ import annotations

import polars as pl

from datacomp_core.errors import DataError

TEXTS = frozenset({"uid", "url", "text", "sha256"})
SIZES = frozenset({"original_width", "original_height"})
ENCODED = (pl.Categorical, pl.Enum)
HALF, WHOLE = 16, 32
WIDE, EXACT = (pl.Int64, pl.Int128, pl.UInt128), 1 << 53


def plain(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the same rows with texts as text and decimals as float64. DataError names a column that cannot be converted."""
    made: list[pl.Series] = []
    for column in table.iter_columns():
        kind = column.dtype
        if column.name == "uid":
            made.append(_uids(column, where))
        elif column.name in TEXTS and kind != pl.String:
            made.append(_texts(column, where))
        elif column.name in SIZES:
            made.append(_sizes(column, where))
        elif isinstance(kind, ENCODED):
            made.append(column.cast(pl.String))
        else:
            made.append(column.cast(pl.Float64) if isinstance(kind, pl.Decimal) else column)
    return pl.DataFrame(made) if made else table


def numbers(scores: pl.Series) -> pl.Series:
    """Return a score column as numbers; booleans become 1 and 0. DataError for any other type, and for whole numbers that
    float64 cannot represent exactly: different scores would tie.
    """
    kind = scores.dtype
    if isinstance(kind, WIDE) and ((scores > EXACT) | (scores < -EXACT)).any():
        raise DataError(
            f"The column {scores.name!r} has whole numbers beyond 2^53, where scores are not compared exactly: scale them down."
        )
    if kind.is_numeric():
        return scores.cast(pl.Float64) if isinstance(kind, pl.Decimal) else scores
    if isinstance(kind, pl.Null | pl.Boolean):
        return scores.cast(pl.Float32)
    raise DataError(
        f"The column {scores.name!r} cannot be used as a score: it contains {kind}, not numbers. Write it as float32 or float64."
    )


def _uids(column: pl.Series, where: str) -> pl.Series:
    kind = column.dtype
    if kind == pl.String:
        return column
    if isinstance(kind, ENCODED):
        return column.cast(pl.String)
    if kind == pl.Binary:
        sizes = set(column.bin.size().drop_nulls().unique().to_list())
        if sizes <= {HALF}:
            return column.bin.encode("hex")
        if sizes <= {WHOLE}:
            return _decoded(column, where)
    raise DataError(
        f"The column 'uid' of {where} contains {kind}, not uids: write 32 hex digits as text, or their 16 or 32 bytes. "
        "Numbers could be either half of a uid."
    )


def _texts(column: pl.Series, where: str) -> pl.Series:
    kind = column.dtype
    if kind == pl.Null or isinstance(kind, ENCODED):
        return column.cast(pl.String)
    if kind == pl.Binary:
        return _decoded(column, where)
    raise DataError(f"The column {column.name!r} of {where} contains {kind}, not text: write it as text.")


def _sizes(column: pl.Series, where: str) -> pl.Series:
    """Return pixels as numbers; NaN and infinity become missing."""
    kind = column.dtype
    if kind.is_integer():
        return column
    if kind == pl.Null:
        return column.cast(pl.Int32)
    if kind.is_numeric():
        numbers = column.cast(pl.Float64)
        return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series().alias(column.name)
    raise DataError(f"The column {column.name!r} of {where} contains {kind}, not numbers of pixels: write it as int32.")


def _decoded(column: pl.Series, where: str) -> pl.Series:
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as problem:
        raise DataError(
            f"The column {column.name!r} of {where} contains bytes that are not UTF-8 text: write it as text."
        ) from problem
