"""Pool -> shards: download the images with img2dataset, shard by shard, and account for every candidate.

Parts are cut into shards as img2dataset cuts them. A shard with a stats file is finished and never fetched again; every
other one is fetched anew, so an interrupted download goes on and ends with the samples of an undisturbed one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, part_names, scan
from datacomp_core.pool import ledger
from datacomp_core.pool.fetch import ShardPlan, fetch_shard, set_up, stats_name
from datacomp_core.pool.spec import ImageSpec, images_of
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.shards import read_index, shard_name
from datacomp_core.store import Folder, Store, scratch, step

log = logging.getLogger(__name__)

__all__ = ["ImageSpec", "download_images", "images_of", "plan_shards"]
FOOTER_READERS = 16
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
    stats = {number: out.read_json(stats_name(shard_name(number))) for number in _numbers(plans, done)}
    if stats:
        log.info("%d of %d shards are finished already", len(stats), len(plans))
    progress.start(sum(plan.count for plan in plans), "images")
    for found in stats.values():
        progress.advance(found["count"], **found["reasons"])
    waiting = [plan for plan in plans if plan.number not in stats]
    with scratch() as folder:
        output = folder / "img2dataset.log"
        set_up_arguments = (spec, metadata, out, threads, http_proxy, output)
        with _log_is_told(output):
            for plan, fetched in process_map(
                fetch_shard,
                waiting,
                workers=min(workers, max(len(waiting), 1)),
                setup=set_up,
                setup_arguments=set_up_arguments,
                one_worker="apart",
            ):
                for file in fetched.files:
                    out.note(file)
                stats[plan.number] = fetched.stats
                progress.advance(plan.count, **fetched.stats["reasons"])
    return _shard_set(spec, pool, out, stats)


def plan_shards(metadata: Folder, spec: ImageSpec) -> Iterator[ShardPlan]:
    """The shards of a pool, numbered on through its parts in order of name. DataError if a part cannot be used."""
    with ThreadPoolExecutor(FOOTER_READERS) as readers:
        number = 0
        parts = part_names(metadata)
        for part, rows in zip(parts, readers.map(lambda part: _num_rows(metadata, part, spec), parts), strict=True):
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


def _numbers(plans: list[ShardPlan], done: set[str]) -> list[int]:
    return [plan.number for plan in plans if stats_name(shard_name(plan.number)) in done]


def _shard_set(spec: ImageSpec, pool: Pool, out: Folder, stats: dict[int, dict[str, Any]]) -> ShardSet:
    reasons: Counter[str] = Counter()
    for found in stats.values():
        reasons.update(found["reasons"])
    arrived, candidates = reasons.get("arrived", 0), reasons.total()
    if not arrived or arrived < spec.min_arrived * candidates:
        losses = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common() if reason != "arrived")
        raise IncompleteError(
            f"Only {arrived:,} of {candidates:,} images arrived ({losses or 'the pool is empty'}): see the ledger in {out} "
            "and mend the cause; what is finished is kept, so remove that folder to fetch it all again."
        )
    digest = sum(int(found["uids_digest"], 16) for found in stats.values()) % ledger.DIGEST_MODULUS
    return ShardSet(
        scale=pool.scale,
        num_samples=arrived,
        num_unique=_num_unique(out, sorted(stats)),
        num_shards=len(stats),
        content=f"{digest:064x}",
        counts={
            "candidates": candidates,
            **dict(sorted(reasons.items())),
            "hash_mismatches": sum(found["hash_mismatches"] for found in stats.values()),
        },
    )


def _num_unique(out: Folder, shards: list[int]) -> int:
    packed = [uid.pack(read_index(out, shard_name(number))["uid"]) for number in shards]
    return uid.num_unique(uid.sort(np.concatenate(packed)))


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
