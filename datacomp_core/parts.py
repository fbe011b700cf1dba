"""Metadata parts: one parquet of DataComp's schema each, with scores and features of the same name beside it.

Parts are the unit of parallel work over a pool: no process ever loads the rows of a whole pool.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import polars as pl

from datacomp_core.errors import DataError, StoreError
from datacomp_core.store.folder import Folder

log = logging.getLogger(__name__)

METADATA = "metadata"
SCORES = "scores"
FEATURES = "features"

SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "url": pl.String,
        "text": pl.String,
        "original_width": pl.Int64,
        "original_height": pl.Int64,
        "clip_b32_similarity_score": pl.Float32,
        "clip_l14_similarity_score": pl.Float32,
        "face_bboxes": pl.List(pl.List(pl.Float64)),
        "sha256": pl.String,
    }
)


def part_names(folder: Folder) -> list[str]:
    """Return the names of the parts (without `.parquet`) in a metadata folder, sorted. DataError if there are none."""
    there = [name for name in folder.files() if "/" not in name and name.lower().endswith(".parquet")]
    hidden = [name for name in there if name.startswith(".")]
    odd = [name for name in there if name not in hidden and not name.endswith(".parquet")]
    if odd:
        raise DataError(f"{folder.at(odd[0])} is not read as a part, for its ending is not .parquet in lower case: rename it.")
    if hidden:
        log.warning("%s has hidden files, which are not parts and are not read: %s", folder, ", ".join(hidden[:3]))
    names = [name.removesuffix(".parquet") for name in there if name not in hidden]
    if not names:
        raise DataError(f"{folder} has no metadata: give a folder of parquet files.")
    return names


def scan(metadata: Folder, part: str, scores: Sequence[Folder] = ()) -> pl.LazyFrame:
    """One part, lazily, with the score columns of the same rows joined on (files of other pipelines may be in `scores`).

    A score column that the metadata has too takes its place. Rows are aligned, never matched: DataError if counts differ.
    """
    frame = scan_tables(metadata, f"{part}.parquet")
    for folder in scores:
        more = scan_tables(folder, f"{part}.parquet").drop("uid", strict=False)
        ours, theirs = (f.select(pl.len()).collect().item() for f in (frame, more))
        if ours != theirs:
            raise DataError(f"{folder.at(part)}.parquet has {theirs} rows and the metadata {ours}: embed the pool again.")
        fresh = more.collect_schema().names()
        frame = pl.concat([frame.drop(fresh, strict=False), more], how="horizontal")
    return frame


def scan_tables(folder: Folder, *names: str) -> pl.LazyFrame:
    """Parquet files of a folder, lazily, one after another. Their names are names: `[`, `*` and `?` are not patterns."""
    urls = [folder.at(name) for name in names]
    return pl.scan_parquet(urls, storage_options=storage_options(folder), glob=False, hive_partitioning=False)


def store_fault(problem: BaseException, folder: Folder, name: str) -> StoreError | None:
    """The error to raise if polars could not read a file of a bucket for a reason other than the file: a failing
    server, an expired token, a cut connection, a 404 for an existing file. None if the file itself is at fault, or on a disk.
    """
    if folder.is_local or not isinstance(problem, OSError):
        return None
    if isinstance(problem, FileNotFoundError) and not folder.exists(name):
        return None
    return StoreError(f"Cannot read {folder.at(name)}: {str(problem).strip().splitlines()[0]}")


def storage_options(folder: Folder) -> dict[str, Any] | None:
    """Return polars' options for the same bucket as fsspec's: the environment's endpoint, and plain http if it uses that."""
    if folder.is_local:
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {"aws_endpoint_url": endpoint, "aws_allow_http": "true"} if endpoint else None
