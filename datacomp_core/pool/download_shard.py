"""Downloads one shard: img2dataset fetches and resizes; we write the tar, its index and its ledger. It runs in separate worker
processes, because img2dataset and urllib have process-wide state. Images are spooled to scratch and written in the order of the
metadata with fixed tar headers, so that a shard's bytes depend only on what the servers sent. `<shard>_stats.json` is written
last and marks a finished shard.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError, DiskFullError
from datacomp_core.library_patches import left_out, require_version, timed_downloads
from datacomp_core.parts import scan
from datacomp_core.pool import ledger
from datacomp_core.pool.image_header import CheckedResizer
from datacomp_core.pool.safe_http import RequestLimits, SafeOpener
from datacomp_core.pool.spec import ImageSpec
from datacomp_core.shards import LEDGER, ShardWriter, shard_name, write_index
from datacomp_core.store.folder import FileStat, Folder, scratch

SHARD_DIGITS = 8
TOLD_BYTES = 8192


@dataclass(frozen=True)
class ShardPlan:
    """Rows `first` to `first + count` of a part make one shard."""

    number: int
    part: str
    first: int
    count: int


@dataclass(frozen=True)
class Fetched:
    """The result of one shard; `stats` is its `_stats.json`, `said` is the output of a worker on another machine."""

    plan: ShardPlan
    files: tuple[FileStat, ...]
    stats: dict[str, Any]
    said: str = ""


@dataclass(frozen=True)
class Worker:
    """A worker process's view of its job."""

    spec: ImageSpec
    metadata: Folder
    out: Folder
    threads: int
    resizer: Any
    log: IO[bytes] | None = None

    def said(self) -> str:
        """Return the output since the last call (its end if it is long); nothing if the driver reads the file itself."""
        if self.log is None:
            return ""
        size = os.fstat(self.log.fileno()).st_size
        words = os.pread(self.log.fileno(), TOLD_BYTES, max(0, size - TOLD_BYTES)).decode("utf-8", "replace")
        os.ftruncate(self.log.fileno(), 0)
        return words


@dataclass(frozen=True)
class NetworkAccess:
    """How the web is reached: a proxy, and open private networks."""

    http_proxy: str | None = None
    open_networks: tuple[str, ...] = ()


def stats_name(shard: str) -> str:
    return f"{shard}_stats.json"


def set_up(spec: ImageSpec, metadata: Folder, out: Folder, threads: int, reach: NetworkAccess, log: Path | None) -> Worker:
    """Prepare this dedicated process: its output goes to a file, its urllib obeys the limits of `safe_http`. `log` is on the
    driver's machine; None: this is another machine, and output is sent with each shard.
    """
    file = tempfile.TemporaryFile("a+b", buffering=0) if log is None else log.open("ab", buffering=0)  # noqa: SIM115
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    if log is not None:
        file.close()
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(spec.max_pixels)
    proxies = {"http": reach.http_proxy, "https": reach.http_proxy} if reach.http_proxy else urllib.request.getproxies()
    limits = RequestLimits(spec.max_bytes, spec.max_seconds, reach.open_networks)
    urllib.request.install_opener(SafeOpener(limits, {name: proxies[name] for name in ("http", "https") if name in proxies}))
    require_version("img2dataset")
    # img2dataset imports webdataset, which imports torch if it can; an engine's process may have other work for both.
    with left_out(["torch"] if log is not None else []):
        import img2dataset.downloader  # noqa: F401  # pyright: ignore[reportUnusedImport]
        from img2dataset.blurrer import BoundingBoxBlurrer
        from img2dataset.resizer import Resizer

    resizer = Resizer(
        image_size=spec.image_size,
        resize_mode=spec.resize_mode,
        resize_only_if_bigger=spec.resize == "only_if_bigger",
        encode_quality=spec.encode_quality,
        encode_format=spec.encode_format,
        min_image_size=spec.min_image_size,
        max_image_area=float("inf") if spec.max_image_area is None else spec.max_image_area,
        max_aspect_ratio=float("inf") if spec.max_aspect_ratio is None else spec.max_aspect_ratio,
        blurrer=BoundingBoxBlurrer() if spec.faces == "blur" else None,
    )
    return Worker(
        spec,
        metadata,
        out,
        threads,
        CheckedResizer(resizer, spec.max_pixels, deep=spec.deep_pictures, turned=spec.turned_pictures),
        file if log is None else None,
    )


def fetch_shard(worker: Worker, plan: ShardPlan) -> Fetched:
    """Download, write and report one shard. A finished one is replaced by equal bytes, if the web has not changed."""
    try:
        rows = candidates(worker.metadata, plan, worker.spec)
        # The images' scratch file has no name, so that a kill leaves nothing behind.
        with _disk_is_told(worker.out), scratch() as folder, tempfile.TemporaryFile() as file:
            spool = _Spool(file, worker.spec, worker.resizer)
            _download(worker, plan, rows, spool, folder)
            made = _write(worker, plan, rows, spool)
    except Exception as problem:
        if words := worker.said():
            problem.add_note(words)
        raise
    return replace(made, said=worker.said())


def candidates(metadata: Folder, plan: ShardPlan, spec: ImageSpec) -> pl.DataFrame:
    """The rows of a shard: uid, face_bboxes (if faces are blurred), caption, url, sha256."""
    columns = [name for name in spec.columns() if name != "sha256"]
    frame = scan(metadata, plan.part)
    expected = pl.col("sha256") if "sha256" in frame.collect_schema().names() else pl.lit(None, pl.String).alias("sha256")
    rows = frame.select(*columns, expected).slice(plan.first, plan.count).collect()
    if rows.height != plan.count or rows["uid"].null_count():
        raise DataError(
            f"Part {metadata.at(plan.part)}.parquet has rows without a uid, or fewer rows than its footer says: make the "
            "pool again."
        )
    return rows.rename({"text": "caption"})


def _download(worker: Worker, plan: ShardPlan, rows: pl.DataFrame, spool: _Spool, folder: Path) -> None:
    with timed_downloads(spool.times):
        _download_shard(worker, plan, rows, spool, folder)
    if spool.problem is not None:
        raise spool.problem


def _download_shard(worker: Worker, plan: ShardPlan, rows: pl.DataFrame, spool: _Spool, folder: Path) -> None:
    from img2dataset.downloader import Downloader

    spec, source = worker.spec, folder / "rows.arrow"
    wanted = rows.drop("sha256")
    wanted.write_ipc(source, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
    downloader = Downloader(
        sample_writer_class=lambda *_: spool,
        resizer=worker.resizer,
        thread_count=worker.threads,
        save_caption=True,
        extract_exif=spec.exif == "keep",
        output_folder=str(folder),
        column_list=wanted.columns,
        timeout=spec.timeout_seconds,
        number_sample_per_shard=spec.samples_per_shard,
        oom_shard_count=SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format=spec.encode_format,
        retries=spec.retries,
        user_agent_token=spec.user_agent_token,
        disallowed_header_directives=list(spec.opt_out_directives) or None,
        blurring_bbox_col="face_bboxes" if spec.faces == "blur" else None,
    )
    downloader.download_shard((plan.number, str(source)))


class _Spool:
    """The sample writer for img2dataset: images go to a scratch file as they arrive, the rest stays in memory."""

    def __init__(self, file: IO[bytes], spec: ImageSpec, resizer: CheckedResizer) -> None:
        self.file, self.spec, self.resizer = file, spec, resizer
        self.odd: dict[str, str] = {}
        self.rows: dict[str, tuple[dict[str, Any], int, int]] = {}
        self.captions: dict[str, str] = {}
        self.times: dict[int, tuple[float, datetime]] = {}
        self.problem: Exception | None = None

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        try:
            self.rows[key] = (dict(meta), self.file.tell(), 0 if image is None else self.file.write(image))
            if image is not None:
                self.captions[key] = caption or ""
                if self.resizer.odd:  # img2dataset writes what it resized last
                    self.odd[key] = ", ".join(self.resizer.odd)
        except OSError as problem:  # img2dataset would only print it and lose the sample
            self.problem = problem

    def close(self) -> None:
        self.file.flush()


def _write(worker: Worker, plan: ShardPlan, rows: pl.DataFrame, spool: _Spool) -> Fetched:
    shard, out = shard_name(plan.number), worker.out.journaled()
    book = _account(worker.spec, shard, rows, spool)
    with out.writing(f"{shard}.tar") as path, path.open("wb") as file:
        writer = ShardWriter(file, shard)
        for uid, key, agrees in book.filter(pl.col("reason").is_null()).select("uid", "key", "hash").iter_rows():
            meta, start, length = spool.rows[key]
            if worker.spec.hash_mismatch == "flag":
                meta["sha256_agrees"] = None if agrees is None else agrees == "match"
            spool.file.seek(start)
            members = {
                worker.spec.encode_format: spool.file.read(length),
                "json": json.dumps(meta, indent=4).encode(),
                "txt": spool.captions[key].encode(),
            }
            writer.add(uid, key, members)
        index = writer.finish()
    write_index(out, shard, index)
    with out.writing(f"{LEDGER}/{shard}.parquet") as path:
        book.write_parquet(path, compression="zstd", statistics=False)
    stats = account_stats(book)
    out.write_json(stats_name(shard), stats)
    return Fetched(plan, tuple(out.journal.values()), stats)


def _account(spec: ImageSpec, shard: str, rows: pl.DataFrame, spool: _Spool) -> pl.DataFrame:
    """Return the ledger of a shard, in the order of the metadata: one row per candidate, including those img2dataset lost."""
    from img2dataset.downloader import compute_key

    digits = len(str(spec.samples_per_shard - 1)) if spec.samples_per_shard > 1 else 0
    found: list[tuple[Any, ...]] = []
    for row, (uid, expected, url) in enumerate(rows.select("uid", "sha256", "url").iter_rows()):
        key = compute_key(row, int(shard), digits, SHARD_DIGITS)
        meta, _, length = spool.rows.get(key, ({"status": "failed_to_download", "error_message": ""}, 0, 0))
        arrived = meta["status"] == "success"
        message = None if arrived else str(meta["error_message"] or "")
        sha256 = meta.get("sha256")
        agrees = ("match" if sha256 == expected else "mismatch") if sha256 and expected else None
        status, reason = meta["status"], None if message is None else ledger.reason_of(message)
        if arrived and agrees == "mismatch" and spec.hash_mismatch == "drop":
            status, reason = "refused", "hash_mismatch"
        http = ledger.http_status_of(message) if message else None
        size = (meta.get("original_width"), meta.get("original_height"))
        spent = spool.times.get(row, (None, None))
        kept = length if arrived else None
        place = (ledger.host_of(url), ledger.url_hash(url)) if url else (None, None)
        found.append(
            (uid, shard, key, status, reason, message, http, kept, *spent, sha256, agrees, *size, *place, spool.odd.get(key))
        )
    return pl.DataFrame(found, schema=ledger.SCHEMA, orient="row")


def account_stats(book: pl.DataFrame) -> dict[str, Any]:
    """img2dataset's stats without the times, and ours: losses by reason, hash mismatches, the digest of what arrived."""
    arrived = book.filter(pl.col("reason").is_null())
    status = {str(name): int(count) for name, count in book["status"].value_counts().iter_rows()}
    return {
        "count": book.height,
        "successes": arrived.height,
        "failed_to_download": status.get("failed_to_download", 0),
        "failed_to_resize": status.get("failed_to_resize", 0),
        "status_dict": dict(sorted(book["message"].fill_null("success").value_counts().iter_rows())),
        "reasons": dict(sorted(ledger.tally(book).items())),
        "hash_mismatches": int((book["hash"] == "mismatch").sum()),
        "uids_digest": f"{ledger.digest(arrived['uid']):064x}",
        **ledger.pictures(book),
    }


@contextmanager
def _disk_is_told(out: Folder) -> Generator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            raise
        raise DiskFullError(f"{out} or in the scratch folder") from problem
