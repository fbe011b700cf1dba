"""Fetches again only what failed for a temporary reason, into new shards next to the old ones. `retry/<shard>.parquet` lists
what a new shard tries: rows of metadata, and the ledger of each. When the shard is finished its rows are removed from those
ledgers, so each candidate has one row. A killed retry resumes: finished shards are kept.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError
from datacomp_core.parts import METADATA, SCHEMA, scan
from datacomp_core.pool import amend, error_pictures, ledger, removal
from datacomp_core.pool.adopted_shard import TableColumns, read_table
from datacomp_core.pool.amend import RETRY
from datacomp_core.pool.distributors import Distributor
from datacomp_core.pool.download_images import fetch_plans, plan_shards
from datacomp_core.pool.download_shard import NetworkAccess, ShardPlan, account_stats, stats_name
from datacomp_core.pool.safe_http import networks
from datacomp_core.pool.spec import ImageSpec
from datacomp_core.pool.stats import ledger_names, read_ledger
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.shards import LEDGER, TAKEN_DOWN, shard_name
from datacomp_core.store import Folder, Store
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import Record
from datacomp_core.uid import uid_of

ORIGIN, ORIGIN_KEY = "_ledger", "_key"  # which row of which ledger a row was


@dataclass(frozen=True)
class RetryResult:
    """The result of a retry."""

    shards: ShardSet
    tried: int
    arrived: int


def retry_images(
    spec: ImageSpec,
    pool: Pool,
    address: str,
    *,
    store: Store,
    workers: int = 1,
    threads: int = 128,
    http_proxy: str | None = None,
    open_networks: str = "",
    distributor: Distributor = "engine",
    tables: TableColumns | None = None,
    progress: Progress = NO_PROGRESS,
) -> RetryResult:
    """Try every row of the download at `address` again whose reason is in `ledger.TRANSIENT`; shards are numbered on.

    With `open_networks`, rows that were blocked as private addresses are tried again too.
    For an adopted download (`tables`: its column names) the rows are in the parquets next to its tars.
    DataError if the download is not of this pool with this spec.
    """
    with store.alone(address, "retry it"):
        if (begun := store.interrupted(address)) is not None and begun.why == amend.TAKEDOWN:
            store.refuse_interrupted(address)
        record, shards = amend.begin(store, address, RETRY)
        return _retry(
            store,
            record,
            shards,
            spec,
            store.folder(pool) / METADATA,
            tables,
            workers=workers,
            distributor=distributor,
            threads=threads,
            reach=NetworkAccess(http_proxy, networks(open_networks)),
            progress=progress,
        )


def _retry(
    store: Store,
    record: Record,
    shards: ShardSet,
    spec: ImageSpec,
    metadata: Folder,
    tables: TableColumns | None,
    *,
    workers: int,
    distributor: Distributor,
    threads: int,
    reach: NetworkAccess,
    progress: Progress,
) -> RetryResult:
    folder = store.folder(shards)
    changed: dict[str, FileStat] = {}
    for name in removal.pending(folder):
        removal.finish(folder, name, removal.samples_of_uids(()), TAKEN_DOWN, changed)
    amend.drop_unfinished(store, record)
    for name in sorted(path.removesuffix(".parquet") for path in (folder / RETRY).files(".parquet")):
        if folder.exists(stats_name(name)):
            _move_rows(folder, name, changed)
    also = (ledger.BLOCKED,) if reach.open_networks else ()
    plans = list(_again(metadata, spec, folder, tables, changed, also))
    progress.start(sum(plan.count for plan in plans), "images")
    tried = arrived = 0
    for fetched in fetch_plans(plans, (spec, folder / RETRY, folder, threads, reach), workers, distributor):
        changed |= {file.path: file for file in fetched.files}
        tried, arrived = tried + fetched.plan.count, arrived + fetched.stats["successes"]
        progress.advance(fetched.plan.count, **fetched.stats["reasons"])
        _move_rows(folder, shard_name(fetched.plan.number), changed)
    if spec.error_pictures == "drop":
        error_pictures.drop(folder, spec.error_picture_urls, changed)
    return RetryResult(amend.finish(store, record, shards, changed, RETRY), tried, arrived)


def _again(
    metadata: Folder,
    spec: ImageSpec,
    shards: Folder,
    tables: TableColumns | None,
    changed: dict[str, FileStat],
    also: tuple[str, ...],
) -> Iterator[ShardPlan]:
    """The rows to try again, cut into new shards."""
    number = max((int(name) for name in ledger_names(shards) if name.isdecimal()), default=-1) + 1
    waiting = pl.DataFrame()
    for rows in _failed(metadata, spec, shards, tables, also):
        waiting = pl.concat([waiting, rows], how="diagonal_relaxed")
        while waiting.height >= spec.samples_per_shard:
            yield _part(shards, number, waiting.head(spec.samples_per_shard), changed)
            waiting, number = waiting.slice(spec.samples_per_shard), number + 1
    if waiting.height:
        yield _part(shards, number, waiting, changed)


def _failed(
    metadata: Folder, spec: ImageSpec, shards: Folder, tables: TableColumns | None, also: tuple[str, ...]
) -> Iterator[pl.DataFrame]:
    """Yield metadata of the rows that failed for a temporary reason, or one of `also`, one ledger at a time."""
    plans = {} if tables else {shard_name(plan.number): plan for plan in plan_shards(metadata, spec)}
    for name in ledger_names(shards):
        failed = read_ledger(shards, name).filter(ledger.is_transient(*also)).select("uid", "key")
        if failed.is_empty():
            continue
        if tables and not shards.exists(f"{RETRY}/{name}.parquet"):
            yield _of_table(shards, name, tables, failed)
            continue
        if shards.exists(f"{RETRY}/{name}.parquet"):
            rows = pl.read_parquet(io.BytesIO(shards.read(f"{RETRY}/{name}.parquet")))
        elif name in plans:
            rows = scan(metadata, plans[name].part).slice(plans[name].first, plans[name].count).collect()
        else:
            rows = pl.DataFrame(schema={"uid": pl.String})
        rows = rows.drop(ORIGIN, ORIGIN_KEY, strict=False).with_columns(_keys(name, rows.height, spec))
        rows = rows.join(failed, left_on=["uid", ORIGIN_KEY], right_on=["uid", "key"], how="semi", maintain_order="left")
        rows = rows.with_columns(pl.lit(name).alias(ORIGIN))
        if rows.height < failed.height:
            raise DataError(
                f"{shards} is not the download of {metadata} with these settings: ledger {name} has other uids: "
                "give the matching pool and settings."
            )
        yield rows


def _of_table(shards: Folder, name: str, tables: TableColumns, failed: pl.DataFrame) -> pl.DataFrame:
    """Return metadata of failed rows of an adopted shard, from the parquet next to its tar. DataError if it has no urls."""
    rows = read_table(shards, name, tables)
    if "url" not in rows.columns:
        raise DataError(
            f"{shards.at(name)}.parquet has no column {tables.url!r}, so the urls to fetch are unknown: adopt the folder "
            "with --column url=NAME."
        )
    rows = rows.join(failed.select("key"), on="key", how="semi", maintain_order="left").unique("key", maintain_order=True)
    text = pl.col("caption").cast(pl.String).fill_null("") if "caption" in rows.columns else pl.lit("")
    made = [uid_of(url, caption) for url, caption in rows.select("url", text.alias("caption")).iter_rows()]
    told = pl.col("uid").str.to_lowercase() if "uid" in rows.columns else pl.lit(None, pl.String)
    boxes = pl.col("face_bboxes") if "face_bboxes" in rows.columns else pl.lit([])
    kinds = {"face_bboxes": SCHEMA["face_bboxes"], "sha256": pl.String}
    return rows.select(
        uid=pl.when(told.str.contains("^[0-9a-f]{32}$")).then(told).otherwise(pl.Series(made, dtype=pl.String)),
        url="url",
        text=text,
        face_bboxes=boxes.cast(kinds["face_bboxes"]).fill_null([]),
        sha256=pl.lit(None, pl.String),  # img2dataset's value is for received data, and there is none
        **{ORIGIN: pl.lit(name), ORIGIN_KEY: pl.col("key")},
    )


def _keys(name: str, number: int, spec: ImageSpec) -> pl.Series:
    """Return the keys that a download gives the rows of a shard: a uid may occur in several rows, of which one failed."""
    digits = len(str(spec.samples_per_shard - 1)) if spec.samples_per_shard > 1 else 0
    first = int(name) * 10**digits
    return pl.Series(ORIGIN_KEY, range(first, first + number), dtype=pl.Int64).cast(pl.String).str.zfill(8 + digits)


def _part(shards: Folder, number: int, rows: pl.DataFrame, changed: dict[str, FileStat]) -> ShardPlan:
    name = shard_name(number)
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    file = shards.write(f"{RETRY}/{name}.parquet", buffer.getvalue())
    changed[file.path] = file
    return ShardPlan(number, name, 0, rows.height)


def _move_rows(shards: Folder, name: str, changed: dict[str, FileStat]) -> None:
    """Remove the rows that a finished shard tried from their old ledgers."""
    tried = pl.read_parquet(io.BytesIO(shards.read(f"{RETRY}/{name}.parquet")))
    for (origin,), some in tried.group_by(ORIGIN):
        book = read_ledger(shards, str(origin))
        column, its = ("key", ORIGIN_KEY) if ORIGIN_KEY in some.columns else ("uid", "uid")
        moved = ledger.is_transient(ledger.BLOCKED) & pl.col(column).is_in(some[its].implode())
        kept = book.filter(~moved.fill_null(value=False))
        counted, has_moved = account_stats(kept), kept.height < book.height
        if has_moved:
            buffer = io.BytesIO()
            kept.write_parquet(buffer, compression="zstd", statistics=False)
            file = shards.write(f"{LEDGER}/{origin}.parquet", buffer.getvalue())
            changed[file.path] = file
        if has_moved or _is_older(shards, str(origin), counted):
            file = shards.write_json(stats_name(str(origin)), counted)
            changed[file.path] = file


def _is_older(shards: Folder, name: str, counted: dict[str, Any]) -> bool:
    """Whether a killed retry wrote the ledger of a shard and not its statistics."""
    if not shards.exists(stats_name(name)):
        return False
    found = shards.read_json(stats_name(name))
    return "uids_digest" in found and found != counted  # without it they are img2dataset's own
