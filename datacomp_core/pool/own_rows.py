"""Converts the text of custom tables to DataComp's schema, with a reason for every unusable row and value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.parts import SCHEMA
from datacomp_core.pool.tables import TableBatch
from datacomp_core.uid import uid_of

EXAMPLES = 5
IS_UID = "^[0-9a-f]{32}$"
IS_SHA256 = "^[0-9a-f]{64}$"
NEEDED = ("url", "text")
BOX = 4


class Rows(NamedTuple):
    """Usable rows, and (line, reason) of what was skipped or left empty."""

    table: pl.DataFrame
    told: list[tuple[int, str]]


def as_metadata(batch: TableBatch, where: str, names: dict[str, str]) -> Rows:
    """The rows of a batch in DataComp's schema. A row whose url or caption is missing or not text is skipped. DataError for an
    invalid uid, because anything that refers to it would not find the sample.
    """
    told = [(batch.lines[place], reason) for place, reason in batch.faults]
    bad = {place for place, reason in batch.faults if reason.endswith(("_url", "_text", "_uid", "_face_bboxes"))}
    table = batch.table.with_columns(place=pl.int_range(pl.len(), dtype=pl.Int64))
    for name, reason in (("url", "without_url"), ("text", "without_caption")):
        empty = table[name].is_null() | ((table[name] == "") if name == "url" else pl.lit(value=False))
        missing = table.filter(empty)["place"].to_list()
        told += [(batch.lines[place], reason) for place in missing if place not in bad]
        bad.update(missing)
    boxes, wrong = _boxes(table["face_bboxes"] if "face_bboxes" in table.columns else None, table.height)
    told += [(batch.lines[place], "unreadable_face_bboxes") for place in wrong if place not in bad]
    bad.update(wrong)
    table = table.with_columns(boxes.alias("face_bboxes"))
    kept = table.filter(~pl.col("place").is_in(sorted(bad))) if bad else table
    columns = [_uids(kept, batch.lines, where, names), kept["url"], kept["text"]]
    for name in ("original_width", "original_height", "sha256"):
        column, wrong = (_hashes if name == "sha256" else _numbers)(kept[name] if name in kept.columns else None, kept.height)
        told += [(batch.lines[int(kept["place"][place])], f"unreadable_{name}") for place in wrong]
        columns.append(column.alias(name))
    made = pl.DataFrame([*columns, kept["face_bboxes"]])
    return Rows(made.select([_column(made, name, kind) for name, kind in SCHEMA.items()]), sorted(told))


def _column(made: pl.DataFrame, name: str, kind: Any) -> pl.Expr:
    return (pl.col(name) if name in made.columns else pl.lit(None)).cast(kind).alias(name)


def _uids(kept: pl.DataFrame, lines: Sequence[int], where: str, names: dict[str, str]) -> pl.Series:
    """The uids that are given, in small letters, and made ones for the rest."""
    given = kept["uid"].str.to_lowercase() if "uid" in kept.columns else pl.Series("uid", [None] * kept.height, pl.String)
    given = given.set(given == "", None)
    bad = given.is_not_null() & ~given.str.contains(IS_UID).fill_null(value=False)
    if bad.any():
        place = int(kept.filter(bad)["place"][0])
        raise DataError(
            f"{where} has the uid {given.filter(bad)[0]!r} in line {lines[place]}, column {names['uid']!r}, which is not 32 "
            "hex digits: correct it, or leave `columns.uid` (--uid) empty to generate uids."
        )
    if not given.null_count():
        return given.alias("uid")
    own = [uid_of(url, text) for url, text in kept.select("url", "text").iter_rows()]
    return given.fill_null(pl.Series(own, dtype=pl.String)).alias("uid")


def _numbers(column: pl.Series | None, rows: int) -> tuple[pl.Series, list[int]]:
    """Return whole numbers from text (`512`, `512.0`) or numbers, and the places of invalid values."""
    if column is None:
        return pl.Series([None] * rows, dtype=pl.Int64), []
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        column = column.set(column == "", None)
    elif not (column.dtype.is_numeric() or column.dtype == pl.Null):
        column = column.cast(pl.String, strict=False)
    exact = column.cast(pl.Float64, strict=False)
    fits = exact.is_finite() & (exact == exact.round()) & (exact >= 0) & (exact < float(1 << 53))
    made = exact.set(~fits.fill_null(value=False), None).cast(pl.Int64)
    lost = column.is_not_null() & made.is_null()
    if exact.dtype.is_float() and column.dtype.is_float():
        lost &= ~column.is_nan()  # how pandas writes a missing number
    return made, lost.arg_true().to_list()


def _hashes(column: pl.Series | None, rows: int) -> tuple[pl.Series, list[int]]:
    """sha256 in small letters; and the places of what is none."""
    if column is None:
        return pl.Series([None] * rows, dtype=pl.String), []
    text = column.str.strip_chars().str.to_lowercase()
    text = text.set(text == "", None)
    good = text.str.contains(IS_SHA256)
    return text.set(~good.fill_null(value=True), None), (~good).fill_null(value=False).arg_true().to_list()


def _boxes(column: pl.Series | None, rows: int) -> tuple[pl.Series, list[int]]:
    """Return lists of four numbers, from nested columns or JSON text. An invalid value must not count as an image without
    faces: its places are returned.
    """
    if column is None:
        return pl.Series([[]] * rows, dtype=SCHEMA["face_bboxes"]), []
    found: list[list[list[float]]] = []
    wrong: list[int] = []
    for place, value in enumerate(column.to_list()):
        try:
            found.append(_box_list(json.loads(value) if isinstance(value, str) and value.strip() else value))
        except (ValueError, TypeError, OverflowError, RecursionError):
            found.append([])
            wrong.append(place)
    return pl.Series(found, dtype=SCHEMA["face_bboxes"]), wrong


def _box_list(value: Any) -> list[list[float]]:
    if value is None or isinstance(value, str):  # an empty text
        return []
    boxes = [[float(number) for number in box] for box in value]
    if any(len(box) != BOX for box in boxes):
        raise ValueError("a box has four numbers")
    return boxes
