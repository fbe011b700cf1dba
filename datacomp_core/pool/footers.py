"""Reads the rows and columns of a metadata folder from the footers of its parquets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.parallel import concurrently
from datacomp_core.parts import scan, store_fault
from datacomp_core.store.folder import Folder


def num_rows(metadata: Folder, part: str, needed: Sequence[str]) -> int:
    """Return the rows of one part. DataError if it is not a parquet or lacks one of the `needed` columns."""
    where = metadata.at(f"{part}.parquet")
    try:
        frame = scan(metadata, part)
        columns = frame.collect_schema().names()
        rows = int(frame.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as problem:
        if fault := store_fault(problem, metadata, f"{part}.parquet"):
            raise fault from problem
        first = str(problem).split("\n", 1)[0]
        raise DataError(f"{where} cannot be read as parquet ({first}): fetch the metadata again.") from problem
    if "uid" in needed and (kind := frame.collect_schema().get("uid", pl.String())) != pl.String:
        raise DataError(
            f"{where} has uids of the type {kind} instead of text of 32 hex digits, so it is not a pool's "
            "metadata: give a pool's metadata folder."
        )
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(
            f"{where} has no column {missing[0]!r}, which the download needs; it has {', '.join(columns) or 'no columns'}."
        )
    return rows


def rows_of_parts(metadata: Folder, parts: Sequence[str], needed: Sequence[str]) -> Iterator[int]:
    """`num_rows` of each part in order; the footers are read by threads that are never far ahead."""
    return concurrently(lambda part: num_rows(metadata, part, needed), parts)


def count_rows(metadata: Folder, parts: Sequence[str], needed: Sequence[str]) -> int:
    """Rows of all parts."""
    return sum(rows_of_parts(metadata, parts, needed))
