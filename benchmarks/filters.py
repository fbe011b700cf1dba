"""What filtering costs: a CommonPool-shaped pool of any size, the reference's filters and ours alternately in one run.

    python benchmarks/filters.py --rows 2000000 --workers 2 --reference CHECKOUT_OF_MLFOUNDATIONS_DATACOMP

Each run is a process of its own, in which the same filter has first gone over a pool of one row a worker, twice: the second time
is its start-up, which is taken off. The reference's processes are forked from one that has imported it (torch is slow). Memory is
the peak of the process and of the largest of its workers. CPU seconds are what can be compared on a machine that others use.
Without `--reference` only ours is measured. The reference is given the same fastText model as ours; `nltk` (with its `wordnet`
data) and `cld3-py` have to be importable for it. `image_based` (not in the default list: it needs embeddings) gives both the same
centroids and target; the reference's code then runs on the CPU too, one thread a worker. `--floor` times fastText alone on the
same captions, which no filter by language can beat; `--cached` times recipes over score columns that are there.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

DIMENSIONS, CENTROIDS, TARGETS = 768, 10_000, 5_000
FILTERS = ("no_filter", "clip_score", "basic_filter", "laion2b", "text_based")
CACHED = ("clip_score_l14", "clip_score:score=b32,threshold=0.281", "mix")
OURS = {
    "clip_score": "clip_score_l14",
    "image_based": "image_based:centroids={clusters}/centroids.npy,target={clusters}/target.npy",
}


def write_pool(folder: Path, num_rows: int, rows_per_part: int) -> None:
    """Parts with real captions in eleven languages, urls, sizes, scores and hashes of the web's shapes."""
    captions = _captions()
    for part, start in enumerate(range(0, num_rows, rows_per_part)):
        chance = np.random.default_rng(part)
        size = min(rows_per_part, num_rows - start)
        halves = chance.integers(0, 2**64, (2, size), np.uint64)
        uids = [f"{high:016x}{low:016x}" for high, low in zip(*halves.tolist(), strict=True)]
        texts = captions.gather(chance.integers(0, len(captions), size)) + pl.Series([f" {n % 9973}" for n in range(size)])
        sides = np.exp(chance.normal(6.0, 0.7, (2, size))).astype(np.int64)
        frame = pl.DataFrame(
            {
                "uid": uids,
                "url": [f"https://images.example.invalid/{uid}/picture.jpg" for uid in uids],
                "text": texts,
                "original_width": sides[0],
                "original_height": sides[1],
                "clip_b32_similarity_score": chance.normal(0.25, 0.06, size).astype(np.float32),
                "clip_l14_similarity_score": chance.normal(0.21, 0.06, size).astype(np.float32),
                "sha256": [uid * 2 for uid in uids],
            }
        )
        frame.write_parquet(folder / f"{part:08d}.parquet", compression="snappy")


def write_embeddings(pools: list[Path], clusters: Path) -> None:
    """An npz beside every parquet of the pools, and centroids and a target set, in the forms that either program reads."""
    import torch

    centroids, target = _unit(0, CENTROIDS), _unit(1, TARGETS)
    np.save(clusters / "centroids.npy", centroids)
    np.save(clusters / "target.npy", target)
    torch.save(centroids, clusters / "small_centroids", pickle_protocol=4)
    for number, some in enumerate(np.array_split(target, 5)):
        torch.save({"image_features": torch.from_numpy(some)}, clusters / f"in1k_clip_vit_l14_{number}")
    for number, path in enumerate(sorted(path for pool in pools for path in pool.glob("*.parquet"))):
        size = pl.scan_parquet(path).select(pl.len()).collect().item()
        np.savez(path.with_suffix(".npz"), l14_img=_unit(2 + number, size).astype(np.float16))


def _unit(seed: int, count: int) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _captions() -> pl.Series:
    table = pl.read_parquet(str(resources.files("datacomp_core") / "pool" / "tiny_data" / "translations.parquet"))
    foreign = [f"{name}: {', '.join(words)}" for name, words in zip(table["name"], table["keywords"].to_list(), strict=True)]
    images = pl.read_parquet(str(resources.files("datacomp_core") / "pool" / "tiny_data" / "images.parquet"), columns=["name"])
    names = [name for name in images["name"].to_list() if name]
    chance = random.Random(0)
    shapes = (
        "a photo of a {}",
        "{} | buy online, free shipping",
        "my {} in the garden, summer 2014",
        "{}",
        "{} stock vector image",
    )
    english = [chance.choice(shapes).format(chance.choice(names)) for _ in range(len(foreign))]
    return pl.Series(foreign + english)


def ours(name: str, folder: str, workers: int) -> int:
    from datacomp_core.filters.select import load_recipe, select
    from datacomp_core.store import Folder

    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe(OURS.get(name, name).format(clusters=_clusters(folder)))
        return select(recipe, Folder(folder), out=Folder(out), write="subset", workers=workers).num_samples


def _clusters(folder: str) -> Path:
    return Path(folder).parent / "clusters"


def reference(name: str, folder: str, workers: int) -> int:
    import baselines.apply_filter as baselines  # pyright: ignore

    run: dict[str, Callable[[], Any]] = {
        "no_filter": lambda: baselines.load_uids(folder, workers),
        "clip_score": lambda: baselines.load_uids_with_clip_score(folder, "l14", None, 0.3, workers),
        "basic_filter": lambda: baselines.load_uids_with_basic_filter(folder, workers),
        "text_based": lambda: baselines.load_uids_with_text_entity(folder, workers),
        "laion2b": lambda: baselines.load_uids_with_clip_score(folder, "b32", 0.28, None, workers, gcld3_en_filter=True),
        "image_based": lambda: baselines.load_uids_with_image_filter(folder, "small", workers, 1024),
    }
    uids = run[name]()
    uids.sort()
    with tempfile.TemporaryDirectory() as out:
        np.save(Path(out) / "subset.npy", uids)
    return len(uids)


def patched(checkout: str, target: Path) -> str:
    """A copy of the reference that finds its files here, and whose image_based runs on the CPU; nothing else is changed."""
    from datacomp_core.assets import asset

    shutil.copytree(f"{checkout}/baselines", target / "baselines")
    files = {"fasttext": asset("lid.176.ftz"), "imagenet21k_wordnet_ids": asset("imagenet21k_wordnet_ids.txt")}
    files |= {name: _clusters(f"{target}/") / name for name in ("small_centroids", *(f"in1k_clip_vit_l14_{n}" for n in range(5)))}
    with (target / "baselines" / "utils.py").open("a") as file:
        file.write(
            f"\n\ndef download(name, root=None):\n    return { {name: str(path) for name, path in files.items()} }[name]\n"
        )
    code = target / "baselines" / "apply_filter.py"
    text = code.read_text().replace('f"cuda:{device}"', '"cpu"')
    text = text.replace("import torch\n", "import torch\n\ntorch.set_num_threads(1)\n", 1)
    code.write_text(text)
    return str(target)


def _child(pipe: Any, function: Callable[..., int], calls: list[tuple[Any, ...]]) -> None:
    sys.stdout = sys.stderr = Path("/dev/null").open("w")  # noqa: SIM115  the reference prints
    kept, spent = 0, [_now()]
    for arguments in calls:
        kept = function(*arguments)
        spent.append(_now())
    idle, busy = (np.subtract(spent[n + 1], spent[n]) for n in (-3, -2))
    seconds, cpu = (busy - idle).tolist()
    main, worker = (1024 * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    pipe.send({"seconds": seconds, "cpu": cpu, "main": main, "worker": worker, "kept": kept})


def _references(pipe: Any, checkout: str) -> None:
    sys.path.insert(0, checkout)
    import baselines.apply_filter  # noqa: F401  # pyright: ignore

    multiprocessing.set_start_method("fork", force=True)
    while calls := pipe.recv():
        pipe.send(measured(reference, *calls, method="fork"))


def _now() -> tuple[float, float]:
    """The clock, and CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(one.ru_utime + one.ru_stime for one in used)


def measured(function: Callable[..., int], *calls: tuple[Any, ...], method: str = "spawn") -> dict[str, float]:
    """Seconds, CPU seconds, peak bytes and rows kept of the last call in a process of its own, less those of the one before."""
    context = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, list(calls)))  # pyright: ignore
    process.start()
    found = mine.recv()
    process.join()
    return found


def of_reference(checkout: str) -> Callable[..., dict[str, float]]:
    """As `measured`, of the reference: each run in a process forked from one that has imported it."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    context.Process(target=_references, args=(theirs, checkout)).start()

    def run(*calls: tuple[Any, ...]) -> dict[str, float]:
        mine.send(calls)
        return mine.recv()

    atexit.register(mine.send, ())
    return run


def floor(folder: str) -> int:
    """fastText alone over every caption, one at a time, in one process."""
    import fasttext

    from datacomp_core.assets import asset

    predict = fasttext.load_model(str(asset("lid.176.ftz"))).predict
    texts = pl.scan_parquet(f"{folder}/*.parquet").select(pl.col("text").str.replace_all("\n", " ")).collect().to_series()
    return sum(predict(text)[0] == ("__label__en",) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rows-per-part", type=int, default=500_000, help="At most rows / workers, or a worker has no work.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reference", default="", help="A checkout of mlfoundations/datacomp.")
    parser.add_argument("--filters", nargs="*", default=list(FILTERS), choices=[*FILTERS, "image_based"])
    parser.add_argument("--floor", action="store_true", help="Also fastText alone.")
    parser.add_argument("--cached", action="store_true", help="Also recipes over score columns.")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are measured: a worker is a thread, in both programs
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # the default when the reference was written
    with tempfile.TemporaryDirectory() as root:
        folder = f"{root}/metadata"
        Path(folder).mkdir()
        write_pool(Path(folder), options.rows, options.rows_per_part)
        one_row = f"{root}/one_row"
        Path(one_row).mkdir()
        write_pool(Path(one_row), options.workers, 1)
        if "image_based" in options.filters:
            _clusters(folder).mkdir()
            write_embeddings([Path(folder), Path(one_row)], _clusters(folder))
        runs: dict[str, Callable[..., dict[str, float]]] = {"ours": lambda *calls: measured(ours, *calls)}
        if options.reference:
            runs["reference"] = of_reference(patched(options.reference, Path(root) / "reference"))
        print(f"{'filter':40}{'who':11}{'seconds':>9}{'CPU s':>9}{'rows/CPU s':>12}{'main MB':>9}{'worker MB':>11}{'kept':>10}")
        pools = one_row, one_row, folder
        for name in options.filters:
            found: dict[str, list[dict[str, float]]] = {who: [] for who in runs}
            for _ in range(options.rounds):
                for who, run in runs.items():
                    found[who].append(run(*((name, pool, options.workers) for pool in pools)))
            for who, some in found.items():
                _line(name, who, options.rows, _least(some))
            assert len({one["kept"] for some in found.values() for one in some}) == 1, json.dumps(found)
        for name in CACHED if options.cached else ():
            _line(name, "ours", options.rows, measured(ours, *((name, pool, options.workers) for pool in pools)))
        if options.floor:
            _line("fastText alone", "", options.rows, measured(floor, *((pool,) for pool in pools)))


def _least(some: list[dict[str, float]]) -> dict[str, float]:
    """The best of several runs, by each measure."""
    return {name: min(one[name] for one in some) for name in some[0]}


def _line(name: str, who: str, rows: int, found: dict[str, float]) -> None:
    print(
        f"{name:40}{who:11}{found['seconds']:9.2f}{found['cpu']:9.2f}{rows / max(found['cpu'], 1e-3):12,.0f}"
        f"{found['main'] / 1e6:9.0f}{found['worker'] / 1e6:11.0f}{found['kept']:10,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
