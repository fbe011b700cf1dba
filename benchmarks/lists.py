"""A list of 20 M uids, of the form of `datacomp_medium_dfn_20m_inds.npy`, over a pool, beside numpy's `isin`.

`python benchmarks/lists.py [--listed 20_000_000] [--pool 20_000_000]`; each way is measured in a process of its own. `read` is
what no way can be faster than: the pool's uids read and turned into numbers. numpy's way sorts the list again for each part, so
it is measured on `--numpy-parts` of them. `own` is the memory that is not a mapped file, which the system cannot take back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

PARTS = 16


def make(folder: Path, listed: int, pool: int) -> None:
    """A pool of random uids, and a list of which half is the pool's: sorted, and in another order."""
    from datacomp_core import uid

    chance = np.random.default_rng(0)
    (folder / "metadata").mkdir()
    own: list[uid.Uids] = []
    for part in range(PARTS):
        packed = np.empty(pool // PARTS, uid.DTYPE)
        packed["f0"], packed["f1"] = (chance.integers(0, 2**64, len(packed), np.uint64) for _ in range(2))
        own.append(packed)
        pl.DataFrame({"uid": uid.unpack(packed)}).write_parquet(folder / "metadata" / f"{part:08d}.parquet")
    there = np.concatenate(own)[: listed // 2]
    rest = np.empty(listed - len(there), uid.DTYPE)
    rest["f0"], rest["f1"] = (chance.integers(0, 2**64, len(rest), np.uint64) for _ in range(2))
    whole = np.concatenate([there, rest])
    np.save(folder / "unsorted.npy", whole[chance.permutation(len(whole))])
    np.save(folder / "sorted.npy", uid.sort(whole))


def ours(folder: Path, name: str) -> int:
    from datacomp_core.filters import Listed
    from datacomp_core.recipes.base import Recipe
    from datacomp_core.selection.select import select
    from datacomp_core.store import Folder

    wanted = Recipe(name="b", filter=Listed(uids=str(folder / name)))
    return select(wanted, Folder(folder / "metadata"), out=Folder(folder / "out"), write="subset", workers=1).num_samples


def read(folder: Path, name: str) -> int:
    """The pool alone, as any way must read it."""
    from datacomp_core import uid

    return sum(len(uid.pack(pl.read_parquet(file, glob=False)["uid"])) for file in sorted((folder / "metadata").iterdir()))


def numpys(folder: Path, name: str, parts: int = PARTS) -> int:
    """As the reference's scripts do: hex to pairs, then `isin` over one array of 16 bytes an element."""
    from datacomp_core import uid

    listed = np.load(folder / name).view("S16")
    kept = 0
    for file in sorted((folder / "metadata").iterdir())[:parts]:
        packed = uid.pack(pl.read_parquet(file, glob=False)["uid"])
        kept += int(np.isin(packed.view("S16"), listed).sum())
    return kept


class Memory(threading.Thread):
    """The most memory of this process that is no mapped file, looked at fifty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.most = max([self.most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
            time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listed", type=int, default=20_000_000)
    parser.add_argument("--pool", type=int, default=20_000_000)
    parser.add_argument("--numpy-parts", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", default="")
    given = parser.parse_args()
    if given.only:
        way, name = given.only.split(":")

        memory = Memory()
        memory.start()
        began, worked = time.monotonic(), time.process_time()
        ways = {"read": read, "ours": ours, "numpy": partial(numpys, parts=given.numpy_parts)}
        kept = ways[way](Path(given.folder), name)
        print(
            json.dumps(
                {
                    "kept": kept,
                    "seconds": time.monotonic() - began,
                    "cpu": time.process_time() - worked,
                    "kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                    "own": memory.most,
                }
            )
        )
        return
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary), given.listed, given.pool)
        columns = f"{'way':<20}{'kept':>12}{'seconds':>10}{'CPU s':>8}{'rows/CPU s':>12}{'peak GB':>10}{'own':>8}"
        print(f"{given.listed:,} listed, {given.pool:,} rows\n{columns}")
        for way in ("read:pool", "ours:sorted.npy", "ours:unsorted.npy", "numpy:sorted.npy", "numpy:unsorted.npy"):
            command = [sys.executable, __file__, "--only", way, "--folder", temporary, "--numpy-parts", str(given.numpy_parts)]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            rows = given.pool * (given.numpy_parts / PARTS if way.startswith("numpy") else 1)
            rate = rows / told["cpu"]  # of a loaded machine the clock tells little
            measured = (
                f"{told['seconds']:>10.1f}{told['cpu']:>8.1f}{rate:>12,.0f}{told['kb'] / 1e6:>10.2f}{told['own'] / 1e6:>8.2f}"
            )
            print(f"{way:<20}{told['kept']:>12,}{measured}", flush=True)


if __name__ == "__main__":
    main()
