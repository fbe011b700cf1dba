"""Finds and drops error images: an "image not found" image, one sha256 behind many hosts' dead links. They are found in the
ledgers by the number of different urls with one body, through buckets on scratch disk, so that a pool of any size can be
searched. If `ImageSpec.error_pictures` says so, they are dropped after the last shard.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

import numpy as np
import polars as pl

from datacomp_core.parallel import concurrently
from datacomp_core.pool import removal
from datacomp_core.pool.stats import ledger_names, read_ledger
from datacomp_core.pool.unique_uids import MAX_BUCKETS, UIDS_IN_MEMORY
from datacomp_core.store import Folder

REASON = "error_picture"
LEAST_URLS = 10
PREFIX = 32  # hex digits that identify a sha256
ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("url", "<u8")])


def find(shards: Folder, least_urls: int = LEAST_URLS) -> dict[str, int]:
    """Return the first 32 hex digits of each sha256 with at least this many different urls -> how many; most first."""
    names = ledger_names(shards)
    about = sum(rows.height for rows in concurrently(lambda name: _bodies(shards, name), names[:1])) * len(names)
    number = max(1, min(MAX_BUCKETS, about // UIDS_IN_MEMORY))
    found: dict[str, int] = {}
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(number)]
        for rows in concurrently(lambda name: _bodies(shards, name), names):
            packed = _packed(rows)
            bucket = (packed["high"] >> np.uint64(32)) * np.uint64(number) >> np.uint64(32)
            for one in np.unique(bucket):
                files[one].write(packed[bucket == one].tobytes())
        for file in files:
            file.seek(0)
            found |= _common(np.frombuffer(file.read(), ROW), least_urls)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def drop(shards: Folder, least_urls: int, changed: removal.Changed) -> set[str]:
    """Remove the samples of every error image from their shards; return the names of these shards. A killed drop is resumed: a
    started removal is finished, and the ledger is written after the tar.
    """
    bad = pl.Series(list(find(shards, least_urls)), dtype=pl.String)
    touched: set[str] = set()
    for name in ledger_names(shards) if len(bad) else ():
        book = read_ledger(shards, name)
        hit = pl.col("sha256").str.head(PREFIX).is_in(bad.implode()) & (pl.col("reason").is_null() | (pl.col("reason") == REASON))
        uids = book.filter(hit)["uid"].to_list()
        if uids:
            removal.from_shard(shards, name, removal.samples_of_uids(uids), REASON, changed)
            touched.add(name)
    return touched


def _bodies(shards: Folder, name: str) -> pl.DataFrame:
    return read_ledger(shards, name).select("sha256", "url_hash").drop_nulls().unique()


def _packed(rows: pl.DataFrame) -> np.ndarray:
    halves = [rows["sha256"].str.slice(start, 16).str.to_integer(base=16, dtype=pl.UInt64) for start in (0, 16)]
    packed = np.empty(rows.height, ROW)
    packed["high"], packed["low"], packed["url"] = (half.to_numpy() for half in (*halves, rows["url_hash"]))
    return packed


def _common(rows: np.ndarray, least_urls: int) -> dict[str, int]:
    table = pl.DataFrame({name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()})
    counted = table.group_by("high", "low").agg(pl.col("url").n_unique()).filter(pl.col("url") >= least_urls)
    return {f"{high:016x}{low:016x}": int(urls) for high, low, urls in counted.iter_rows()}
