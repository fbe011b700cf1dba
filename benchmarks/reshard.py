"""How fast is resharding? Ours against `cp` of the same bytes and against the reference.

    python benchmarks/reshard.py --shards 8 --samples 10000 --reference CHECKOUT --reference-shards 2

Makes shards of real JPEGs (of random content, so that they have a size like the web's), indexes them, and for subsets of
several sizes runs each contender in turn, several times, each as a process of its own: ours as `datacomp reshard`, `cp` as so
many processes as ours may have. Start-up is what the same command takes for one shard of ten samples, run beside it; rates are
given with it and without. "read" is what ours asked the file system for, in bytes per byte selected (without start-up, in one
process). Peak memory is that of the largest process. The reference runs from a checkout of mlfoundations/datacomp
(`--reference`) and needs pysimdjson and cloudpathlib on PYTHONPATH; it is patched at run time for today's webdataset, and may be
given fewer shards, of which it chooses the same share. Without a checkout it is left out. `--times` makes the pool larger by
hard links with indices of their own, which only ours reads. `--keep` leaves the pool in `--folder` for the next run.

`--s3` adds a bucket on a local S3 server (SeaweedFS), which holds the pool: ours from bucket to bucket, with the bytes and
requests asked of it, and "get all", which fetches every tar and drops it: what a reader of the whole pool pays at the least. The
reference reads buckets by the `aws` command, which is not run here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from s3_servers import make_bucket, s3_server


class Cost(NamedTuple):
    """Wall-clock and CPU seconds with all child processes, and the peak memory of the largest of them."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


OURS = str(Path(sys.executable).with_name("datacomp"))
COPY = 'ls "$1"/*.tar | xargs -P "$3" -I{} cp {} "$2"'

# Runs a command and tells what it cost. Its own process is small: a child begins with the peak memory of its parent.
LAUNCH = """
import json, os, sys, time
begun = time.monotonic()
quiet = os.open(os.devnull, os.O_WRONLY)
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)])
_, status, used = os.wait4(process, 0)
cost = [time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]
print(json.dumps([*cost, os.waitstatus_to_exitcode(status)]))
"""

GET_ALL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datacomp_core.store import Folder
if __name__ == "__main__":
    source, workers = Folder(sys.argv[1]), int(sys.argv[2])
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda name: len(source.read(name)), source.files(".tar")))
"""

# All that the reference needs with webdataset 0.2.86: names that have moved.
REFERENCE = """
import importlib, runpy, sys
import webdataset as wds
gopen = importlib.import_module("webdataset.gopen")
wds.writer.gopen.Pipe, wds.writer.gopen.info, wds.gopen_schemes = gopen.Pipe, gopen.info, gopen.gopen_schemes
sys.argv[0] = sys.argv.pop(1) + "/resharder.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_shards(folder: Path, shards: int, samples: int) -> np.ndarray:
    """Shards as img2dataset leaves them (webdataset's writer), with index and stats; returns the uids of all samples."""
    import webdataset
    from PIL import Image

    from datacomp_core import shards as core
    from datacomp_core.store import Folder

    random = np.random.default_rng(0)
    images: list[bytes] = []
    for _ in range(64):
        side = int(random.integers(120, 400))
        coarse = Image.fromarray(random.integers(0, 256, (side // 6, side // 6, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        images.append(buffer.getvalue())
    uids = random.integers(0, 2**63, (shards * samples, 2), np.uint64)
    names = [f"{high:016x}{low:016x}" for high, low in uids.tolist()]
    for shard in range(shards):
        name = core.shard_name(shard)
        with webdataset.TarWriter(str(folder / f"{name}.tar")) as writer:
            for i in range(samples):
                uid = names[shard * samples + i]
                image = images[int(random.integers(len(images)))]
                meta = {"uid": uid, "url": f"http://example.org/{uid}.jpg", "status": "success", "width": 1, "height": 1}
                content = {"jpg": image, "json": json.dumps(meta, indent=4).encode(), "txt": b"a caption of some words"}
                writer.write({"__key__": f"{shard:05d}{i:04d}", **content})
        core.write_index(Folder(folder), name, core.index_shard(Folder(folder), name).whole())
        (folder / f"{name}_stats.json").write_text(json.dumps({"successes": samples}))
    (folder / "sizes.json").write_text(json.dumps({f"{core.shard_name(s)}.tar": samples for s in range(shards)}))
    return uids


def pool_of(folder: Path, shards: int, samples: int, times: int = 1) -> np.ndarray:
    """The uids of a pool in a folder: of one that is there already, or of a new one, that many `times` over."""
    first = one_pool(folder, shards, samples)
    return np.concatenate([first, *(once_more(folder, shards, samples, time) for time in range(1, times))])


def once_more(folder: Path, shards: int, samples: int, time: int) -> np.ndarray:
    """The same tars by other names, with indices of other uids: more to read by index, in no more memory."""
    from datacomp_core import shards as core
    from datacomp_core.store import Folder

    uids = np.random.default_rng(time).integers(0, 2**63, (shards * samples, 2), np.uint64)
    for shard in range(shards):
        old, new = core.shard_name(shard), core.shard_name(time * shards + shard)
        (folder / f"{new}.tar").unlink(missing_ok=True)
        os.link(folder / f"{old}.tar", folder / f"{new}.tar")
        mine = uids[shard * samples : (shard + 1) * samples].tolist()
        names = pl.Series("uid", [f"{high:016x}{low:016x}" for high, low in mine])
        core.write_index(Folder(folder), new, core.read_index(Folder(folder), old).with_columns(names, shard=pl.lit(new)))
    return uids


def one_pool(folder: Path, shards: int, samples: int) -> np.ndarray:
    known = folder / "uids.npy"
    if not known.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(known, make_shards(folder, shards, samples))
    return np.load(known)


def subset_file(path: Path, uids: np.ndarray, fraction: float) -> int:
    chosen = uids[np.random.default_rng(1).permutation(len(uids))[: int(len(uids) * fraction)]]
    packed = np.empty(len(chosen), "u8,u8")
    packed["f0"], packed["f1"] = chosen[:, 0], chosen[:, 1]
    np.save(path, np.sort(packed))
    return len(chosen)


def timed(command: list[str], out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    launched = subprocess.run([sys.executable, "-S", "-c", LAUNCH, *command], capture_output=True, text=True, check=True)
    *cost, status = json.loads(launched.stdout)
    if status:
        raise SystemExit(f"{command[:3]} ended with status {status}: {launched.stderr[-2000:]}")
    return Cost(*cost)


def middle(some: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*some, strict=True)))


def bytes_read(source: Path, subset: Path, out: Path) -> float:
    """Bytes that the kernel was asked to read, a byte of the samples selected. Run once before, so that no module is read."""
    from datacomp_core.resharding.reshard import ReshardSpec, account_folders, reshard_folders
    from datacomp_core.store import Folder

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    _, selected = account_folders(Folder(source), str(subset), ReshardSpec())
    shutil.rmtree(out, ignore_errors=True)
    reshard_folders(Folder(source), str(subset), Folder(out), ReshardSpec())
    begun = so_far()
    account_folders(Folder(source), str(subset), ReshardSpec())
    planned = so_far()
    shutil.rmtree(out, ignore_errors=True)
    reshard_folders(Folder(source), str(subset), Folder(out), ReshardSpec())
    return (so_far() - planned - (planned - begun)) / selected  # the plan reads indices only


def asked_of_bucket(source: str, subset: Path, out: str) -> tuple[float, float]:
    """Bytes asked of a bucket a byte of the samples selected, and requests a sample."""
    from datacomp_core.resharding.reshard import ReshardSpec, account_folders, reshard_folders
    from datacomp_core.store import Folder

    asked: list[int] = []
    read = Folder.read_ranges

    def counted(self: Folder, ranges: list[tuple[str, int, int]]) -> list[bytes]:
        asked.extend(stop - start for _, start, stop in ranges)
        return read(self, ranges)

    Folder.read_ranges = counted
    try:
        account = reshard_folders(Folder(source), str(subset), Folder(out), ReshardSpec())
    finally:
        Folder.read_ranges = read
    _, selected = account_folders(Folder(source), str(subset), ReshardSpec())
    return sum(asked) / selected, len(asked) / account.written


@contextmanager
def bucket() -> Generator[str]:
    """A bucket of a local S3 server, which this process and its children reach."""
    with s3_server() as environment:
        os.environ |= environment
        make_bucket("reshard-benchmark")
        yield "s3://reshard-benchmark"


def in_bucket(given: argparse.Namespace, source: Path, subset: Path, uids: np.ndarray) -> None:
    from datacomp_core.store import Folder

    with bucket() as url:
        pool, few, few_subset = Folder(f"{url}/pool"), Folder(f"{url}/few"), given.folder / "few.npy"
        subset_file(few_subset, np.load(given.folder / "few" / "uids.npy"), 1.0)
        for folder, held in ((pool, source), (few, given.folder / "few")):
            for path in sorted(held.rglob("*")):
                if path.is_file():
                    folder.write(str(path.relative_to(held)), path.read_bytes())

        def ours(shards: str, chosen: Path, to: str) -> list[str]:
            return [OURS, "reshard", "--shards", shards, "--subset", str(chosen), "--out", to, "--json"]

        for number, fraction in enumerate(given.fractions):
            chosen = subset_file(subset, uids, fraction)
            share, requests = asked_of_bucket(pool.url, subset, f"{url}/counted{number}")
            print(f"{fraction:7.0%} {'S3 read':<12} {share:8.3f} bytes per byte selected, {requests:.2f} requests a sample")
            dropped = given.folder / "nothing"
            costs: dict[str, list[Cost]] = {"S3 ours": [], "S3 get all": []}
            starts: list[Cost] = []
            for turn in range(given.repeats):
                to = f"{url}/out{number}-{turn}"
                costs["S3 ours"].append(timed(ours(pool.url, subset, to), dropped))
                starts.append(timed(ours(few.url, few_subset, f"{to}-few"), dropped))
                costs["S3 get all"].append(timed([sys.executable, "-c", GET_ALL, pool.url, str(given.workers)], dropped))
            show(fraction, "S3 ours", chosen, middle(costs["S3 ours"]), middle(starts))
            show(fraction, "S3 get all", len(uids), middle(costs["S3 get all"]), Cost(0, 0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-reshard"), help="where to work; removed afterwards")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--samples", type=int, default=10_000, help="of a shard")
    parser.add_argument("--times", type=int, default=1, help="the pool so many times over (hard links; not for the reference)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fractions", type=float, nargs="+", default=(0.03, 0.1, 0.3, 1.0), help="sizes of the subset")
    parser.add_argument("--reference", type=Path, help="a checkout of mlfoundations/datacomp")
    parser.add_argument("--reference-shards", type=int, help="how many of the shards the reference is given (default: all)")
    parser.add_argument("--s3", action="store_true", help="the pool in a bucket, instead of a folder")
    parser.add_argument("--keep", action="store_true", help="leave the pool for the next run")
    given = parser.parse_args()
    os.environ["DATACOMP_WORKERS"] = str(given.workers)
    source = given.folder / "pool"
    try:
        uids = pool_of(source, given.shards, given.samples, given.times)
        pool_of(given.folder / "few", 1, 10)
        size = sum(path.stat().st_size for path in source.glob("*.tar"))
        print(f"{len(uids):,} samples, {size / 1e9:.2f} GB, {given.workers} workers, median of {given.repeats}")
        print(f"load {os.getloadavg()[0]:.1f} at the start")
        print(f"{'subset':>7} {'contender':<12} {'seconds':>8} {'CPU s':>8} {'samples/s':>10} {'after start':>11} {'peak MB':>8}")
        if given.s3:
            in_bucket(given, source, given.folder / "subset.npy", uids)
        else:
            for fraction in given.fractions:
                compare(given, source, uids, fraction)
    finally:
        for path in given.folder.iterdir() if given.keep else [given.folder]:
            if not given.keep or path.name not in ("pool", "few"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def compare(given: argparse.Namespace, source: Path, uids: np.ndarray, fraction: float) -> None:
    folder = given.folder
    out, bare, few, subset, few_subset = (folder / n for n in ("out", "same-bytes", "few", "subset.npy", "few.npy"))
    subset_file(few_subset, np.load(few / "uids.npy"), 1.0)
    number = subset_file(subset, uids, fraction)
    print(f"{fraction:7.0%} {'read':<12} {bytes_read(source, subset, out):8.3f} bytes per byte selected", flush=True)
    shutil.rmtree(bare, ignore_errors=True)
    out.rename(bare)

    def ours(pool: Path, chosen: Path) -> list[str]:
        return [OURS, "reshard", "--shards", str(pool), "--subset", str(chosen), "--out", str(out), "--json"]

    def reference(pool: Path, chosen: Path) -> list[str]:
        options = ["-i", str(pool), "-o", str(out), "-s", str(chosen), "-j", str(given.workers)]
        return [sys.executable, "-c", REFERENCE, str(given.reference), *options]

    copy = ["/bin/sh", "-c", COPY, "cp", str(bare), str(out), str(given.workers)]
    contenders = {"cp": (number, copy, None), "ours": (number, ours(source, subset), ours(few, few_subset))}
    if given.reference:
        part, chosen = folder / "part", folder / "part.npy"
        of_part = part_of(source, part, given.reference_shards or given.shards)
        count = subset_file(chosen, uids[: of_part * given.samples], fraction)
        contenders["reference"] = (count, reference(part, chosen), reference(few, few_subset))
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    starts: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(given.repeats):
        for name, (_, command, start) in contenders.items():
            costs[name].append(timed(command, out))
            starts[name].append(timed(start, out) if start else Cost(0, 0, 0))
    for name, (count, _, _) in contenders.items():
        show(fraction, name, count, middle(costs[name]), middle(starts[name]))


def part_of(source: Path, part: Path, shards: int) -> int:
    """The first shards of a pool, as links."""
    from datacomp_core.shards import shard_name

    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    names = [shard_name(number) for number in range(shards)]
    for name in names:
        for file in (f"{name}.tar", f"{name}_stats.json"):
            os.link(source / file, part / file)
    sizes = json.loads((source / "sizes.json").read_text())
    (part / "sizes.json").write_text(json.dumps({f"{name}.tar": sizes[f"{name}.tar"] for name in names}))
    return shards


def show(fraction: float, name: str, number: int, cost: Cost, start: Cost) -> None:
    alone = f"{number / (cost.seconds - start.seconds):11,.0f}" if cost.seconds > start.seconds else f"{'-':>11}"
    print(
        f"{fraction:7.0%} {name:<12} {cost.seconds:8.2f} {cost.cpu_seconds:8.2f} {number / cost.seconds:10,.0f} {alone} "
        f"{cost.peak_mb:8.0f}   start-up {start.seconds:.2f} s, {start.cpu_seconds:.2f} CPU s",
        flush=True,
    )


if __name__ == "__main__":
    main()
