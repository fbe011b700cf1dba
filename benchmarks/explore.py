"""What does `datacomp explore` cost at a million sampled pairs? Synthetic features and captions; a table of seconds and memory.

python benchmarks/explore.py --rows 1000000 --dimensions 512
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core.explore import pool_index
from datacomp_core.progress import NoProgress
from datacomp_core.uid import subset_bytes, unpack
from deployments.explore.explore_sources import of_folders
from deployments.explore.explorer import open_explorer
from deployments.explore.explorer_api import ExplorerApi, FacetRequest, SearchRequest
from deployments.explore.export import write_export

PART = 100_000
WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "cat",
    "dog",
    "house",
    "tree",
    "car",
    "boat",
    "flag",
    "cup",
    "lamp",
    "road",
    "sky",
    "hill",
    "river",
]
TRIES = 15


def make_pool(folder: Path, rows: int, dimensions: int) -> None:
    """Parts of PART rows: features around 300 centres, captions of a few words, two scores, a subset of a third."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(300, dimensions)).astype(np.float32)
    (folder / "metadata").mkdir(parents=True)
    chosen: list[Any] = []
    for part, start in enumerate(range(0, rows, PART)):
        count = min(PART, rows - start)
        packed = np.frombuffer(random.bytes(16 * count), "u8,u8")
        scores = random.normal(0.25, 0.05, count).astype(np.float32)
        kinds = random.integers(0, 300, count)
        features = centres[kinds] + random.normal(size=(count, dimensions), scale=0.7).astype(np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        picks = random.integers(0, len(WORDS), (count, 7))
        captions = [" ".join(WORDS[place] for place in row) + f" {kind}" for row, kind in zip(picks, kinds, strict=True)]
        pl.DataFrame(
            {
                "uid": unpack(packed),
                "url": [f"https://host{row % 500}.example/{start + row}.jpg" for row in range(count)],
                "text": captions,
                "original_width": random.integers(100, 2000, count),
                "original_height": random.integers(100, 2000, count),
                "clip_l14_similarity_score": scores,
            }
        ).write_parquet(folder / "metadata" / f"{part:08d}.parquet")
        np.savez(folder / "metadata" / f"{part:08d}.npz", l14_img=features.astype(np.float16))
        chosen.append(packed[scores > 0.27])
    (folder / "subset.npy").write_bytes(subset_bytes(np.concatenate(chosen)))


def peak() -> float:
    """GB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def told(what: str, seconds: float, note: str = "") -> None:
    sys.stdout.write(f"| {what} | {seconds:.3g} s | {peak():.2f} GB | {note} |\n")
    sys.stdout.flush()


def timed(what: str, work: Callable[[], Any], note: Callable[[Any], str] = lambda _: "") -> Any:
    began = time.monotonic()
    made = work()
    told(what, time.monotonic() - began, note(made))
    return made


def repeated(what: str, work: Callable[[int], Any]) -> None:
    """The first time, and the median of the next."""
    spent: list[float] = []
    for number in range(TRIES + 1):
        began = time.monotonic()
        work(number)
        spent.append(time.monotonic() - began)
    told(what, statistics.median(spent[1:]), f"median of {TRIES}; the first {spent[0]:.3g} s")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--dimensions", type=int, default=512)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_pool(folder / "pool", given.rows, given.dimensions)
        sys.stdout.write("| what | time | peak memory so far | |\n|---|---|---|---|\n")
        origin = of_folders(str(folder / "pool" / "metadata"), [], [], None, [str(folder / "pool" / "subset.npy")], {})
        explorer = timed("sample, map, clusters and their names", lambda: open_explorer(origin, given.rows, folder / "home"))
        timed("the same, kept from before", lambda: open_explorer(origin, given.rows, folder / "home"))
        view = ExplorerApi(explorer, folder)
        timed("what the page loads at its start", view.about, lambda made: f"{len(json.dumps(made)) / 1e3:.0f} kB")
        timed("places of all points", view.points, lambda made: f"{len(made) / 1e6:.0f} MB")
        random = np.random.default_rng(1)
        queries = random.normal(size=(TRIES + 1, given.dimensions)).astype(np.float32)
        repeated("exact search among all", lambda number: view.found(queries[number], SearchRequest(count=60), None))
        facet = {"kind": "range", "column": "clip_l14_similarity_score"}
        bounds = np.linspace(0.2, 0.3, TRIES + 1)
        repeated(
            "a threshold moved: counts, flips, histograms",
            lambda number: view.judge(
                FacetRequest.model_validate(
                    {
                        "wanted": {"facets": [{**facet, "at_least": float(bounds[number])}]},
                        "against": 0,
                        "columns": ["clip_l14_similarity_score", "words"],
                    }
                )
            ),
        )
        index = timed(
            "index of the whole pool on disk",
            lambda: pool_index.build(origin.source, "l14_img", explorer.sample.vectors("l14_img"), explorer.whole_folder),
            lambda made: (
                f"{sum(file.stat().st_size for file in explorer.whole_folder.iterdir()) / 1e9:.2f} GB, {made.num_vectors:,}"
            ),
        )
        repeated("search of that index", lambda number: index.search(queries[number], 60))
        exact = [set(explorer.search(query, 10).rows.tolist()) for query in queries]
        starts = dict(zip(index.parts, index.starts, strict=True))
        found = [{starts[part] + row for part, row, _ in index.search(query, 10)} for query in queries]
        recall = sum(len(a & b) for a, b in zip(exact, found, strict=True)) / (10 * len(exact))
        sys.stdout.write(f"| recall at 10 of that index against the exact one | {recall:.2f} | | random directions |\n")
        timed("near-duplicates", lambda: view.groups(0.95), lambda made: f"{made['num_groups']:,} groups")
        out = str(folder / "all.parquet")
        timed(
            "export without pictures",
            lambda: write_export(explorer, out, only="", pictures="none", form="parquet", progress=NoProgress()),
            lambda made: f"{made['rows']:,} rows, {Path(out).stat().st_size / 1e6:.0f} MB",
        )


if __name__ == "__main__":
    main()
