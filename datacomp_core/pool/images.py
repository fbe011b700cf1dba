"""Pool -> shards: download the images with img2dataset, shard by shard, and account for every candidate.

Parts are cut into shards as img2dataset cuts them. A shard with a stats file is finished and never fetched again; every
other one is fetched anew, so an interrupted download goes on and ends with the samples of an undisturbed one.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.parallel import prepared_map
from datacomp_core.parts import METADATA, part_names, scan
from datacomp_core.pool import ledger
from datacomp_core.pool.fetch import Fetched, ShardPlan, fetch_shard, set_up, stats_name
from datacomp_core.pool.spec import ImageSpec, images_of
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.shards import read_index, shard_name
from datacomp_core.store import Folder, Store, scratch, step

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

__all__ = ["ImageSpec", "download_images", "images_of", "plan_shards"]
READERS = 16
UIDS_IN_MEMORY = 1 << 24
MAX_BUCKETS = 512
TOLD_LOG_CHARACTERS = 2000


@step("shards", version=1, name=lambda spec, pool: f"{pool.name}-{spec.label()}" if pool.name else spec.label())
def download_images(
    spec: ImageSpec,
    pool: Pool,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    threads: int = 128,
    http_proxy: str | None = None,
    progress: Progress = NoProgress(),  # noqa: B008
) -> ShardSet:
    """Fetch the images of a pool: `<shard>.tar`, `index/`, `ledger/` and `<shard>_stats.json` of each shard.

    `threads` downloads run at once in each of `workers` processes. `http_proxy` is used for these downloads and nothing
    else. IncompleteError if nothing arrived, or less than `spec.min_arrived`.
    """
    metadata = store.folder(pool) / METADATA
    plans = list(plan_shards(metadata, spec))
    done = {name for name in out.files("_stats.json") if "/" not in name}
    finished = [plan for plan in plans if stats_name(shard_name(plan.number)) in done]
    waiting = [plan for plan in plans if stats_name(shard_name(plan.number)) not in done]
    if finished:
        log.info("%d of %d shards are finished already", len(finished), len(plans))
    progress.start(sum(plan.count for plan in plans), "images")
    arrived = _Arrived()
    for stats in _read_ahead(lambda plan: out.read_json(stats_name(shard_name(plan.number))), finished):
        arrived.add(stats)
        progress.advance(stats["count"], **stats["reasons"])
    for fetched in _fetch(waiting, (spec, metadata, out, threads, http_proxy), workers):
        for file in fetched.files:
            out.note(file)
        arrived.add(fetched.stats)
        progress.advance(fetched.plan.count, **fetched.stats["reasons"])
    return _shard_set(spec, pool, out, plans, arrived)


def _read_ahead(function: Callable[[T], R], items: list[T]) -> Iterator[R]:
    """`function` of each item in order, by threads that are never far ahead: for many small files of a bucket."""
    with ThreadPoolExecutor(READERS) as readers:
        for begin in range(0, len(items), 4 * READERS):
            yield from readers.map(function, items[begin : begin + 4 * READERS])


def _fetch(plans: list[ShardPlan], settings: tuple[Any, ...], workers: int) -> Iterator[Fetched]:
    with scratch() as folder, _log_is_told(output := folder / "img2dataset.log"):
        done = prepared_map(
            fetch_shard,
            plans,
            prepare=partial(set_up, *settings, output),
            workers=min(workers, max(len(plans), 1)),
            one_worker="apart",
        )
        for _, fetched in done:
            yield fetched


def plan_shards(metadata: Folder, spec: ImageSpec) -> Iterator[ShardPlan]:
    """The shards of a pool, numbered on through its parts in order of name. DataError if a part cannot be used."""
    number = 0
    parts = part_names(metadata)
    for part, rows in zip(parts, _read_ahead(lambda part: _num_rows(metadata, part, spec), parts), strict=True):
        for first in range(0, rows, spec.samples_per_shard):
            yield ShardPlan(number, part, first, min(spec.samples_per_shard, rows - first))
            number += 1


def _num_rows(metadata: Folder, part: str, spec: ImageSpec) -> int:
    where = metadata.at(f"{part}.parquet")
    try:
        frame = scan(metadata, part)
        columns = frame.collect_schema().names()
        rows = int(frame.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as problem:
        raise DataError(f"{where} cannot be read as parquet ({_first_line(problem)}): fetch the metadata again.") from problem
    missing = [name for name in spec.columns() if name not in columns and name != "sha256"]
    if missing:
        raise DataError(f"{where} has no column {missing[0]!r}, which the download needs; it has {', '.join(columns)}.")
    return rows


def _first_line(problem: Exception) -> str:
    return str(problem).split("\n", 1)[0]


class _Arrived:
    """The sums over the stats of all shards."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.mismatches = self.digest = 0

    def add(self, stats: dict[str, Any]) -> None:
        self.reasons.update(stats["reasons"])
        self.mismatches += stats["hash_mismatches"]
        self.digest = (self.digest + int(stats["uids_digest"], 16)) % ledger.DIGEST_MODULUS


def _shard_set(spec: ImageSpec, pool: Pool, out: Folder, plans: list[ShardPlan], found: _Arrived) -> ShardSet:
    arrived, candidates = found.reasons.get("arrived", 0), found.reasons.total()
    if not arrived or arrived < spec.min_arrived * candidates:
        losses = ", ".join(f"{reason} {count:,}" for reason, count in found.reasons.most_common() if reason != "arrived")
        raise IncompleteError(
            f"Only {arrived:,} of {candidates:,} images arrived ({losses or 'the pool is empty'}): see the ledger in {out} "
            "and mend the cause; what is finished is kept, so remove that folder to fetch it all again."
        )
    return ShardSet(
        scale=pool.scale,
        num_samples=arrived,
        num_unique=_num_unique(out, plans, arrived),
        num_shards=len(plans),
        content=f"{found.digest:064x}",
        counts={"candidates": candidates, **dict(sorted(found.reasons.items())), "hash_mismatches": found.mismatches},
    )


def _num_unique(out: Folder, plans: list[ShardPlan], arrived: int) -> int:
    """Distinct uids that arrived, by way of buckets on scratch disk: a pool's uids need not fit into memory."""
    number = max(1, min(MAX_BUCKETS, arrived // UIDS_IN_MEMORY))
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(number)]
        for rows in _read_ahead(lambda plan: read_index(out, shard_name(plan.number)), plans):
            packed = uid.pack(rows["uid"])
            bucket = (packed["f0"] >> np.uint64(32)) * np.uint64(number) >> np.uint64(32)
            for one in np.unique(bucket):
                files[one].write(packed[bucket == one].tobytes())
        unique = 0
        for file in files:
            file.seek(0)
            unique += uid.num_unique(uid.sort(np.frombuffer(file.read(), uid.DTYPE)))
        return unique


@contextmanager
def _log_is_told(path: Path) -> Generator[None]:
    """If the block fails, its workers' last words go to our log: their output is not on the terminal."""
    try:
        yield
    except Exception:
        words = path.read_text(errors="replace")[-TOLD_LOG_CHARACTERS:].strip() if path.exists() else ""
        if words:
            log.warning("last output of img2dataset:\n%s", words)
        raise
