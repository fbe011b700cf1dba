"""Downloads the images of a pool with img2dataset, shard by shard, and reports every candidate. Parts are split into shards as
in img2dataset. A shard with a stats file is finished and never fetched again; all others are fetched again, so an interrupted
download resumes and ends with the samples of an undisturbed one.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datacomp_core import engines
from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import IncompleteError, MissingLibraryError, tally_of
from datacomp_core.parallel import concurrently, prepared_map
from datacomp_core.parts import METADATA, part_names
from datacomp_core.pool import error_pictures, removal
from datacomp_core.pool.distributors import Distributor, distribute
from datacomp_core.pool.download_shard import Fetched, NetworkAccess, ShardPlan, fetch_shard, set_up, stats_name
from datacomp_core.pool.footers import rows_of_parts
from datacomp_core.pool.safe_http import networks
from datacomp_core.pool.shard_statistics import ShardStatistics
from datacomp_core.pool.spec import ImageSpec, images_of
from datacomp_core.pool.stats import blocked_address
from datacomp_core.pool.unique_uids import num_unique
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.shards import TAKEN_DOWN, shard_name
from datacomp_core.store import Folder, Store, scratch, step
from datacomp_core.subprocess_output import SubprocessOutput

log = logging.getLogger(__name__)

__all__ = ["ImageSpec", "download_images", "images_of", "plan_shards"]
TOLD_LOG_CHARACTERS = 2000
FELL_SHORT = "_fell_short.json"
MUCH_BLOCKED = 0.01
BLOCKED_HINT = (
    "{number:,} have hosts with private addresses, such as {address}, which are blocked by default: if the network is your own, "
    "allow its range with --open-networks, such as 10.0.0.0/8 (in a form: `open_networks`)."
)


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
    open_networks: str = "",
    distributor: Distributor = "engine",
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """Fetch the images of a pool: `<shard>.tar`, `index/`, `ledger/` and `<shard>_stats.json` of each shard.

    `threads` downloads run concurrently in each of `workers` processes. `distributor` selects one of img2dataset's own instead
    of our engines. `http_proxy` is used only for these downloads. `open_networks` allows private networks, such as
    `10.0.0.0/8`; by default they are blocked. IncompleteError if nothing arrived, or less than `spec.min_arrived`: fix the
    cause and run again, and incomplete shards are fetched again.
    """
    metadata = store.folder(pool) / METADATA
    reach = NetworkAccess(http_proxy, networks(open_networks))
    if reach.open_networks:
        log.warning("this download may reach private networks: %s", ", ".join(reach.open_networks))
    plans = list(plan_shards(metadata, spec))
    _forget_short(out, spec, reach)
    for name in removal.pending(out):  # by an interrupted takedown or search for error images
        removal.finish(out, name, removal.samples_of_uids(()), TAKEN_DOWN, {})
    done = {name for name in out.files("_stats.json") if "/" not in name}
    finished = [plan for plan in plans if stats_name(shard_name(plan.number)) in done]
    waiting = [plan for plan in plans if stats_name(shard_name(plan.number)) not in done]
    if finished:
        log.info("%d of %d shards are already finished", len(finished), len(plans))
    progress.start(sum(plan.count for plan in plans), "images")
    arrived = ShardStatistics()
    for stats in concurrently(lambda plan: out.read_json(stats_name(shard_name(plan.number))), finished):
        arrived.add(stats)
        progress.advance(stats["count"], **stats["reasons"])
    for fetched in fetch_plans(waiting, (spec, metadata, out, threads, reach), workers, distributor):
        for file in fetched.files:
            out.note(file)
        arrived.add(fetched.stats)
        progress.advance(fetched.plan.count, **fetched.stats["reasons"])
    if spec.error_pictures == "drop" and plans:
        error_pictures.drop(out, spec.error_picture_urls, {})
        arrived = ShardStatistics()
        for stats in concurrently(lambda plan: out.read_json(stats_name(shard_name(plan.number))), plans):
            arrived.add(stats)
    return _shard_set(spec, pool, out, plans, arrived)


def _forget_short(out: Folder, spec: ImageSpec, reach: NetworkAccess) -> None:
    """Reset finished shards of a run that fell short, and shards that lost images to a network that is now open."""
    fell_short = out.exists(FELL_SHORT)
    if not fell_short and not reach.open_networks:
        return
    names = [name for name in out.files("_stats.json") if "/" not in name]
    for name, stats in zip(names, concurrently(out.read_json, names), strict=True):
        share = stats["reasons"].get("arrived", 0) / max(stats["count"], 1)
        blocked = reach.open_networks and stats["reasons"].get("blocked_address")
        if blocked or (fell_short and share <= spec.min_arrived):
            out.remove(name)
    out.remove(FELL_SHORT)


def fetch_plans(
    plans: list[ShardPlan], settings: tuple[Any, ...], workers: int, distributor: Distributor = "engine"
) -> Iterator[Fetched]:
    """Yield the shards of `plans` when they are finished; `settings` are the arguments of `set_up`."""
    with scratch() as folder, _log_is_told(output := folder / "img2dataset.log") as echo:
        is_far = engines.spans_machines()  # then workers send their output with each shard
        if distributor != "engine":
            for fetched in distribute(distributor, plans, settings, workers, output) if plans else ():
                echo()
                yield fetched
            return
        done = prepared_map(
            fetch_shard,
            plans,
            prepare=partial(set_up, *settings, None if is_far else output),
            workers=min(workers, max(len(plans), 1)),
            one_worker="apart",
        )
        try:
            for _, fetched in done:
                _append(output, fetched.said)
                echo()
                yield fetched
        except Exception as problem:
            _append(output, "\n".join(getattr(problem, "__notes__", ())))
            raise


def _append(log: Path, words: str) -> None:
    if words:
        with log.open("a", errors="replace") as file:
            file.write(words if words.endswith("\n") else f"{words}\n")


def plan_shards(metadata: Folder, spec: ImageSpec) -> Iterator[ShardPlan]:
    """Return the shards of a pool, numbered across its parts in order of name. DataError if a part cannot be used."""
    number = 0
    parts = part_names(metadata)
    needed = [name for name in spec.columns() if name != "sha256"]
    for part, rows in zip(parts, rows_of_parts(metadata, parts, needed), strict=True):
        for first in range(0, rows, spec.samples_per_shard):
            yield ShardPlan(number, part, first, min(spec.samples_per_shard, rows - first))
            number += 1


def _shard_set(spec: ImageSpec, pool: Pool, out: Folder, plans: list[ShardPlan], found: ShardStatistics) -> ShardSet:
    arrived, candidates = found.reasons.get("arrived", 0), found.reasons.total()
    if not arrived or arrived < spec.min_arrived * candidates:
        losses = tally_of({reason: count for reason, count in found.reasons.items() if reason != "arrived"})
        out.write_json(FELL_SHORT, found.reasons)
        blocked = found.reasons.get("blocked_address", 0)
        private = ""
        if blocked > MUCH_BLOCKED * candidates:
            private = f" {BLOCKED_HINT.format(number=blocked, address=blocked_address(out))}"
        raise IncompleteError(
            f"Only {arrived:,} of {candidates:,} images arrived ({losses or 'the pool is empty'}).{private} The ledger in "
            f"{out} lists each image: fix the cause and run again. Incomplete shards are fetched again, the others are kept."
        )
    return ShardSet(
        scale=pool.scale,
        num_samples=arrived,
        num_unique=num_unique(out, [shard_name(plan.number) for plan in plans], arrived),
        num_shards=len(plans),
        content=f"{found.digest:064x}",
        counts=found.counts(),
    )


@contextmanager
def _log_is_told(path: Path) -> Generator[SubprocessOutput]:
    """Copy the workers' output to our log and, if the block fails, log its complete end: workers have no terminal."""
    echo = SubprocessOutput(path)
    try:
        yield echo
        echo.close()
    except MissingLibraryError:  # its sentence is sufficient
        raise
    except Exception:
        words = path.read_text(errors="replace")[-TOLD_LOG_CHARACTERS:].strip() if path.exists() else ""
        if words:
            log.warning("last output of img2dataset:\n%s", words)
        raise
