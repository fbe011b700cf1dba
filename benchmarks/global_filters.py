"""What filters over all rows together cost as the pool grows: seconds, and memory of the driver and of its largest worker.

    python benchmarks/global_filters.py --rows 1000000 5000000 20000000 --workers 2 --folder /scratch

The pool is synthetic: random uids and scores, captions of a few words, features of a few dimensions around centres (a driver's
memory does not depend on their length; a worker holds one piece or one bucket of them). Each run is a process of its own, from
the folder to the subset file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from datacomp_core import reused_processes

PART = 500_000
DIMENSIONS, CENTRES, CONCEPTS = 16, 2_000, 20_000
WORDS = (
    "dog",
    "cat",
    "red",
    "car",
    "house",
    "river",
    "mountain",
    "shirt",
    "old",
    "boat",
    "flower",
    "street",
    "a",
    "the",
    "of",
    "in",
)


def trees(folder: Path) -> dict[str, dict[str, Any]]:
    """Each filter as its YAML would have it."""
    centroids = {"centroids": str(folder / "centroids.npy")}
    covered = {"target": str(folder / "target.npy"), "units": 1024, "active": 8, "training_rows": 200_000, "epochs": 1}
    return {
        "density_prune": {"kind": "density_prune", **centroids},
        "d2_prune": {"kind": "d2_prune", **centroids},
        "sem_dedup": {"kind": "sem_dedup", **centroids},
        "submodular": {"kind": "submodular", **covered},
        "concept_quota": {"kind": "concept_quota", "annotations": str(folder / "concepts"), "quota": 200, "prefer": "l14"},
        "balance_clusters": {"kind": "balance_clusters", "filter": {"kind": "everything"}, **centroids},
        "balance_synsets": {"kind": "balance_synsets", "filter": {"kind": "everything"}},
        "distinct": {"kind": "distinct", "by": "text"},
    }


def write_pool(folder: Path, num_rows: int) -> None:
    """Metadata, features and annotations of a pool, and the centres that it was drawn around."""
    centres = _unit(np.random.default_rng(0).normal(size=(CENTRES, DIMENSIONS)))
    for name in ("metadata", "concepts"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "centroids.npy", centres.astype(np.float32))
    np.save(folder / "target.npy", centres[:500].astype(np.float32))
    for part, start in enumerate(range(0, num_rows, PART)):
        _write_part(folder, f"{part:08d}", np.random.default_rng(part + 1), min(PART, num_rows - start), centres)


def _write_part(folder: Path, part: str, random: np.random.Generator, size: int, centres: np.ndarray[Any, Any]) -> None:
    uids = pl.Series([random.bytes(16 * size).hex()]).str.extract_all(".{32}").explode()
    words = pl.Series(WORDS).gather(random.integers(0, len(WORDS), 5 * size)).to_numpy().reshape(size, 5)
    texts = pl.DataFrame(words, orient="row").select(pl.concat_str(pl.all(), pl.lit(""), separator=" ")).to_series()
    scores = random.normal(0.21, 0.06, size).astype(np.float32)
    pl.DataFrame({"uid": uids, "text": texts, "clip_l14_similarity_score": scores}).write_parquet(
        folder / "metadata" / f"{part}.parquet"
    )
    images = _unit(centres[random.integers(0, len(centres), size)] + 0.3 * random.normal(size=(size, DIMENSIONS)))
    captions = _unit(images + 0.5 * random.normal(size=images.shape))
    np.savez(folder / "metadata" / f"{part}.npz", l14_img=images.astype(np.float16), l14_txt=captions.astype(np.float16))
    concepts = np.minimum(random.zipf(1.3, (size, 2)), CONCEPTS)
    pl.DataFrame({"uid": uids, "concepts": [f"{a},{b}" for a, b in concepts.tolist()]}).write_parquet(
        folder / "concepts" / f"{part}.parquet"
    )


def _unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def selected(tree: dict[str, Any], folder: Path, workers: int) -> int:
    """The number of samples that a filter keeps of a pool."""
    from datacomp_core.filters.base import WholeFilter
    from datacomp_core.recipes.base import Recipe
    from datacomp_core.selection.select import select
    from datacomp_core.store import Folder

    recipe = Recipe(name="measured", filter=TypeAdapter(WholeFilter).validate_python(tree))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        return select(recipe, Folder(folder / "metadata"), out=Folder(out), write="subset", workers=workers).num_samples


def _child(pipe: Any, tree: dict[str, Any], folder: Path, workers: int) -> None:
    reused_processes.IDLE_SECONDS = 0.0  # processes that are kept are not counted
    begun = time.monotonic()
    kept = selected(tree, folder, workers)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status = Path("/proc/self/status").read_text().splitlines()
    own = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmHWM", "RssAnon"))}
    pipe.send(
        {
            "seconds": time.monotonic() - begun,
            "cpu": sum(one.ru_utime + one.ru_stime for one in used),
            "driver": own["VmHWM"] / 1024,
            "worker": used[1].ru_maxrss / 1024,
            "kept": kept,
        }
    )


def measured(tree: dict[str, Any], folder: Path, workers: int) -> dict[str, float]:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(theirs, tree, folder, workers))
    process.start()
    theirs.close()
    found = mine.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--filters", nargs="*", default=list(trees(Path())), choices=list(trees(Path())))
    parser.add_argument("--folder", default=None, help="Where the pools are made; by default a temporary folder.")
    options = parser.parse_args()
    print(f"{'filter':20}{'rows':>12}{'seconds':>10}{'CPU s':>10}{'rows/s':>12}{'driver MB':>11}{'worker MB':>11}{'kept':>13}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as root:
            write_pool(Path(root), rows)
            for name in options.filters:
                try:
                    found = measured(trees(Path(root))[name], Path(root), options.workers)
                except EOFError:
                    print(json.dumps({"filter": name, "rows": rows, "failed": True}), flush=True)
                    continue
                print(
                    f"{name:20}{rows:12,}{found['seconds']:10.1f}{found['cpu']:10.1f}{rows / found['seconds']:12,.0f}"
                    f"{found['driver']:11.0f}{found['worker']:11.0f}{found['kept']:13,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
