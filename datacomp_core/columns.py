"""Columns of tables from anywhere in the types that filters and scores expect.

What has one meaning is cast; the rest is refused in one sentence.
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
    """The same rows with texts as text and decimals as float64. DataError names a column that cannot be what it should."""
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
    """A column that is used as a score, as numbers: yes and no are 1 and 0. DataError if it is something else.

    So are whole numbers that float64 does not keep exactly: scores that differ would tie.
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
        f"The column {scores.name!r} cannot be used as a score: it holds {kind} and not numbers. Write it as float32 or float64."
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
        f"The column 'uid' of {where} holds {kind}: uids are 32 hex digits as text, or their 16 or 32 bytes. Numbers could be "
        "either half of a uid, so write them as text."
    )


def _texts(column: pl.Series, where: str) -> pl.Series:
    kind = column.dtype
    if kind == pl.Null or isinstance(kind, ENCODED):
        return column.cast(pl.String)
    if kind == pl.Binary:
        return _decoded(column, where)
    raise DataError(f"The column {column.name!r} of {where} holds {kind} and not text: write it as text.")


def _sizes(column: pl.Series, where: str) -> pl.Series:
    """Pixels as numbers; what is not a number of pixels (NaN, infinity) is missing."""
    kind = column.dtype
    if kind.is_integer():
        return column
    if kind == pl.Null:
        return column.cast(pl.Int32)
    if kind.is_numeric():
        numbers = column.cast(pl.Float64)
        return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series().alias(column.name)
    raise DataError(f"The column {column.name!r} of {where} holds {kind} and not numbers of pixels: write it as int32.")


def _decoded(column: pl.Series, where: str) -> pl.Series:
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as problem:
        raise DataError(
            f"The column {column.name!r} of {where} holds bytes that are not UTF-8 text: write it as text."
        ) from problem
