"""What does work cost that is done once and not again? Processes that serve several maps, and indexes that are read once.

    python benchmarks/repeated_work.py [--before CHECKOUT] [--tars 100] [--samples 1000] [--rounds 3]

"maps" are eight maps of eight short items with two workers: processes that serve them all against processes started for each.
"folder" is what a small run does to a folder of tars: adopt it, compute a score in two passes, reshard it; likewise with both.
"adopt" and "takedown" (one sample, from a download of ours) run in this checkout and, with `--before`, in another one, in turn.
Each is a process of its own. Files read are those of the driver, CPU seconds those of all processes without the driver's start.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

MAPS, ITEMS, WORKERS = 8, 8, 2


def nothing(value: int) -> int:
    return value


def cpu() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def uid_of(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def write_tar(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in numbers:
            uid = uid_of(number)
            meta = json.dumps({"uid": uid, "url": f"http://h/{number}.jpg", "caption": f"a dog {number}"}).encode()
            for extension, data in (
                ("jpg", b"\xff\xd8" + bytes(400)),
                ("json", meta),
                ("txt", f"a dog and a cat {number}".encode()),
            ):
                info = tarfile.TarInfo(f"{number:09d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_tars(folder: Path, tars: int, samples: int) -> None:
    folder.mkdir(parents=True)
    for tar in range(tars):
        write_tar(folder / f"{tar:05d}.tar", range(tar * samples, (tar + 1) * samples))


# What is measured, each in a process of its own -----------------------------------------------------------------------


def eight_maps(_: Path) -> None:
    from datacomp_core.parallel import process_map

    for _ in range(MAPS):
        list(process_map(nothing, range(ITEMS), workers=WORKERS))


def adopt(work: Path) -> Any:
    from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
    from datacomp_core.store import Store

    store, spec = Store.open(str(work / "store")), AdoptedPoolSpec(source=str(work / "tars"))
    pool = adopt_metadata(spec, store=store, workers=WORKERS)
    return store, pool, adopt_shards(spec, pool, store=store, workers=WORKERS)


def folder(work: Path) -> None:
    from datacomp_core.pool.overlap import OverlapSpec, intersect
    from datacomp_core.resharding.reshard import ReshardSpec, reshard
    from datacomp_core.scores.compute import score_pool
    from datacomp_core.scores.metaclip import MetaClip

    store, pool, shards = adopt(work)
    score_pool(MetaClip(), pool, None, None, None, store=store, workers=WORKERS)
    reshard(
        ReshardSpec(samples_per_shard=500),
        intersect(OverlapSpec(name="all"), shards, shards, store=store),
        shards,
        store=store,
        workers=WORKERS,
    )


def takedown(work: Path) -> None:
    from datacomp_core.pool.takedown import take_down_list
    from datacomp_core.store import Store

    (work / "list.txt").write_text(uid_of(1))
    take_down_list(Store.open(str(work / "store")), work / "list.txt")


def as_downloaded(work: Path) -> None:
    """Statistics beside the adopted tars as a download of ours has them: a takedown takes such a folder for one."""
    from datacomp_core.pool.download_shard import account_stats, stats_name

    adopt(work)
    for file in sorted((work / "tars/ledger").iterdir()):
        stats = account_stats(pl.read_parquet(file))
        (work / "tars" / stats_name(file.stem)).write_text(json.dumps(stats, indent=2) + "\n")


def measured(what: str, work: Path, idle: float | None) -> None:
    """Run one of them here and print its CPU seconds and the files that were read whole."""
    from datacomp_core.store import Folder

    if idle is not None:
        from datacomp_core import reused_processes

        reused_processes.IDLE_SECONDS = idle
    import datacomp_core.pool.takedown  # noqa: F401 - imports are no part of it

    reads: Counter[str] = Counter()
    read = Folder.read

    def counted(at: Folder, name: str) -> bytes:
        reads["index" if "index/" in name else "ledger" if "ledger/" in name else "other"] += 1
        return read(at, name)

    Folder.read = counted
    began = cpu()
    globals()[what](work)
    print(json.dumps({"began": began, "here": cpu() - began, **reads}))


def run(what: str, work: Path, checkout: Path, idle: float | None = None) -> dict[str, float]:
    """CPU seconds of a process and its children without its start, and the files it read."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--one", what, "--work", str(work), *(["--idle", str(idle)] if idle is not None else [])]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - told["began"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--tars", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measured(given.one, given.work, given.idle)
        return
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        write_tars(home / "tars", given.tars, given.samples)
        ways: list[tuple[str, str, Path, float | None]] = [
            (f"{what}, processes {how}", what, here, idle)
            for what in ("eight_maps", "folder")
            for how, idle in (("for each map", 0.0), ("reused", 60.0))
        ]
        for what in ("adopt", "takedown"):
            ways += [(f"{what}, {name}", what, place, None) for name, place in (("before", given.before), ("now", here)) if place]
        found: dict[str, list[dict[str, float]]] = {}
        for number in range(given.rounds):
            for name, what, place, idle in ways:
                work = home / f"work-{number}"
                shutil.copytree(home / "tars", work / "tars")
                if what == "takedown":
                    run("as_downloaded", work, here)
                found.setdefault(name, []).append(run(what, work, place, idle))
                shutil.rmtree(work)
    for name, rows in found.items():
        middle = statistics.median(row["cpu"] for row in rows)
        files = ", ".join(f"{kind} {rows[0].get(kind, 0):.0f}" for kind in ("index", "ledger"))
        print(f"{name}: {middle:.2f} CPU s (median of {len(rows)}); files read by the driver: {files}")


if __name__ == "__main__":
    main()
