"""What filtering costs: CommonPool-shaped pools, the reference's filters and ours alternately in one run.

    python benchmarks/filters.py --workers 2 --reference CHECKOUT_OF_MLFOUNDATIONS_DATACOMP --floor --cached
    python benchmarks/filters.py --growth 1000000 5000000 20000000 --filters clip_score basic_filter

What is measured is the whole run of either program, from the folder to the subset file: search for the threshold, workers and
their results, sorting, writing. Each run is a process of its own, in which the same filter has first gone over a pool of one row
a worker, twice: the second time is its start-up, which is taken off. The reference's processes are forked from one that has
imported it (torch is slow). Memory is the peak of the process and of the largest of its workers. `--growth` measures ours alone
on pools of several sizes. The reference is given the same fastText model as ours; `nltk` (with its `wordnet` data), `cld3-py` and
`fasttext-numpy2` have to be importable for it. `image_based` gives both the same centroids and target; the reference's code then
runs on the CPU too, one thread a worker. `--floor` times fastText alone, asked about one caption after the other, and `--cached`
recipes over score columns that are there.
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
ROWS = {
    "no_filter": 2_000_000,
    "clip_score": 2_000_000,
    "basic_filter": 2_000_000,
    "laion2b": 1_000_000,
    "text_based": 100_000,
    "image_based": 60_000,
}
"""As many as the reference goes through in a minute or so on two cores."""
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
        digits = pl.Series([chance.bytes(16 * size).hex()]).str.extract_all(".{32}").explode()
        texts = captions.gather(chance.integers(0, len(captions), size)) + " " + pl.Series(np.arange(size) % 9973).cast(pl.String)
        sides = np.exp(chance.normal(6.0, 0.7, (2, size))).astype(np.int64)
        frame = pl.DataFrame(
            {
                "uid": digits,
                "url": "https://images.example.invalid/" + digits + "/picture.jpg",
                "text": texts,
                "original_width": sides[0],
                "original_height": sides[1],
                "clip_b32_similarity_score": chance.normal(0.25, 0.06, size).astype(np.float32),
                "clip_l14_similarity_score": chance.normal(0.21, 0.06, size).astype(np.float32),
                "sha256": digits + digits,
            }
        )
        frame.write_parquet(folder / f"{part:08d}.parquet", compression="snappy")


def write_clusters(folder: Path) -> None:
    """Centroids and a target set, in the forms that either program reads."""
    import torch

    folder.mkdir()
    centroids, target = _unit(0, CENTROIDS), _unit(1, TARGETS)
    np.save(folder / "centroids.npy", centroids)
    np.save(folder / "target.npy", target)
    torch.save(centroids, folder / "small_centroids", pickle_protocol=4)
    for number, some in enumerate(np.array_split(target, 5)):
        torch.save({"image_features": torch.from_numpy(some)}, folder / f"in1k_clip_vit_l14_{number}")


def write_embeddings(pool: Path) -> None:
    """A npz beside every parquet."""
    for number, path in enumerate(sorted(pool.glob("*.parquet"))):
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
    from datacomp_core.selection.select import load_recipe, select
    from datacomp_core.store import Folder

    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe(OURS.get(name, name).format(clusters=_clusters(folder).resolve()))
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


def patched(checkout: str, target: Path, clusters: Path) -> str:
    """A copy of the reference that finds its files here, and whose image_based runs on the CPU; nothing else is changed."""
    from datacomp_core.assets import asset

    shutil.copytree(f"{checkout}/baselines", target / "baselines")
    files = {"fasttext": asset("lid.176.ftz"), "imagenet21k_wordnet_ids": asset("imagenet21k_wordnet_ids.txt")}
    files |= {name: clusters / name for name in ("small_centroids", *(f"in1k_clip_vit_l14_{n}" for n in range(5)))}
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
    for stream in (1, 2):  # the reference prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    kept, spent = 0, [_now()]
    for arguments in calls:
        kept = function(*arguments)
        spent.append(_now())
    idle, busy = (np.subtract(spent[n + 1], spent[n]) for n in (-3, -2))
    seconds, cpu = (busy - idle).tolist()
    worker = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pipe.send({"seconds": seconds, "cpu": cpu, "main": _peak(), "worker": worker, "kept": kept})


def _peak() -> int:
    """Bytes. Not `ru_maxrss`, which a process that was started has from the one that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


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


def floor(name: str, folder: str, workers: int) -> int:
    """fastText alone over captions, one at a time, in one process: all of them, or those that the rest of basic_filter leaves."""
    import fasttext

    from datacomp_core.assets import asset

    predict = fasttext.load_model(str(asset("lid.176.ftz"))).predict
    rows = pl.scan_parquet(f"{folder}/*.parquet")
    if name == "survivors":
        sides = pl.col("original_width", "original_height")
        shorter, longer = pl.min_horizontal(sides), pl.max_horizontal(sides)
        rows = rows.filter(pl.col("text").str.split(" ").list.len() > 2, shorter >= 200, longer <= 3 * shorter)
    texts = rows.select(pl.col("text").str.replace_all("\n", " ")).collect().to_series()
    return sum(predict(text)[0] == ("__label__en",) for text in texts)


class Pools:
    """Pools by their number of rows, made when they are first asked for."""

    def __init__(self, root: str, rows_per_part: int) -> None:
        self.root, self.rows_per_part = Path(root), rows_per_part

    def of(self, name: str, rows: int, workers: int) -> str:
        folder = self.root / ("vectors" if name == "image_based" else "plain") / str(rows) / "metadata"
        if not folder.exists():
            folder.mkdir(parents=True)
            write_pool(folder, rows, 1 if rows <= workers else min(self.rows_per_part, -(-rows // workers)))
            if name == "image_based":
                if not (self.root / "clusters").exists():
                    write_clusters(self.root / "clusters")
                _clusters(str(folder)).symlink_to(self.root / "clusters")
                write_embeddings(folder)
        return str(folder)


def compared(options: argparse.Namespace, pools: Pools, root: str) -> None:
    """Every filter by both programs, in turns."""
    runs: dict[str, Callable[..., dict[str, float]]] = {"ours": lambda *calls: measured(ours, *calls)}
    if options.reference:
        runs["reference"] = of_reference(patched(options.reference, Path(root) / "reference", pools.root / "clusters"))
    for name in options.filters:
        rows = options.rows or ROWS[name]
        calls = _calls(name, rows, pools, options.workers)
        found: dict[str, list[dict[str, float]]] = {who: [] for who in runs}
        for _ in range(options.rounds):
            for who, run in runs.items():
                found[who].append(run(*calls))
        assert len({one["kept"] for some in found.values() for one in some}) == 1, json.dumps(found)
        least = {who: _least(some) for who, some in found.items()}
        for who, one in least.items():
            _line(name, who, rows, one)
        if options.reference:
            seconds, cpu = (least["reference"][unit] / least["ours"][unit] for unit in ("seconds", "cpu"))
            print(f"{name:40}{'ratio':11}{'':11}{seconds:9.1f}{cpu:9.1f}", flush=True)
    rows = options.rows or ROWS["basic_filter"]
    for name in CACHED if options.cached else ():
        _line(name, "ours", rows, measured(ours, *_calls(name, rows, pools, options.workers)))
    for name in ("all", "survivors") if options.floor else ():
        some = min(rows, 200_000)
        _line(f"fastText alone, {name}", "", some, measured(floor, *_calls(name, some, pools, options.workers)))


def _calls(name: str, rows: int, pools: Pools, workers: int) -> list[tuple[str, str, int]]:
    return [(name, pools.of(name, some, workers), workers) for some in (workers, workers, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0, help=f"By default {ROWS}.")
    parser.add_argument("--rows-per-part", type=int, default=500_000, help="At most rows / workers, or a worker has no work.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reference", default="", help="A checkout of mlfoundations/datacomp.")
    parser.add_argument("--filters", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--growth", nargs="*", type=int, default=[], help="Ours alone, on pools of so many rows.")
    parser.add_argument("--floor", action="store_true", help="Also fastText alone.")
    parser.add_argument("--cached", action="store_true", help="Also recipes over score columns.")
    parser.add_argument("--folder", default=None, help="Where the pools are made; by default a temporary folder.")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are measured: a worker is a thread, in both programs
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # the default when the reference was written
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        pools = Pools(root, options.rows_per_part)
        heads = ("seconds", 9), ("CPU s", 9), ("rows/s", 12), ("main MB", 9), ("worker MB", 11), ("kept", 11)
        print(f"{'filter':40}{'who':11}{'rows':>11}" + "".join(f"{name:>{width}}" for name, width in heads))
        if options.growth:
            for rows in options.growth:
                for name in options.filters:
                    _line(name, "ours", rows, measured(ours, *_calls(name, rows, pools, options.workers)))
        else:
            compared(options, pools, root)


def _least(some: list[dict[str, float]]) -> dict[str, float]:
    """The best of several runs, by each measure."""
    return {name: min(one[name] for one in some) for name in some[0]}


def _line(name: str, who: str, rows: int, found: dict[str, float]) -> None:
    print(
        f"{name:40}{who:11}{rows:11,}{found['seconds']:9.2f}{found['cpu']:9.2f}{rows / max(found['seconds'], 1e-3):12,.0f}"
        f"{found['main'] / 1e6:9.0f}{found['worker'] / 1e6:11.0f}{found['kept']:11,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
