"""How fast is resharding? Ours against `cp` of the same bytes and against the reference.

    python benchmarks/reshard.py --shards 8 --samples 10000 --reference CHECKOUT

Makes shards of real JPEGs (of random content, so that they have a size like the web's), indexes them, and for subsets of
several sizes times each contender in turn, three times, each as a process of its own, start-up included. "read" is what ours
asked the file system for, in bytes per byte selected (without start-up, in one process). The reference runs
from a checkout of mlfoundations/datacomp (`--reference`) and needs pysimdjson and cloudpathlib on PYTHONPATH; it is patched at
run time for today's webdataset. Without a checkout it is left out. Compare CPU seconds where the machine is shared.

`--s3` adds a bucket on a local S3 server (ministack), which holds the pool: ours from bucket to bucket, with the bytes and
requests asked of it, and "get all", which fetches every tar and drops it: what a reader of the whole pool pays at the least. The
reference reads buckets by the `aws` command, which is not run here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Cost(NamedTuple):
    """Wall-clock and CPU seconds with all child processes, and the peak memory of the largest of them."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


OURS = """
import sys
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.store import Folder
if __name__ == "__main__":
    source, subset, out, workers = sys.argv[1:]
    reshard_folders(Folder(source), subset, Folder(out), ReshardSpec(), workers=int(workers))
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


def subset_file(path: Path, uids: np.ndarray, fraction: float) -> int:
    chosen = uids[np.random.default_rng(1).permutation(len(uids))[: int(len(uids) * fraction)]]
    packed = np.empty(len(chosen), "u8,u8")
    packed["f0"], packed["f1"] = chosen[:, 0], chosen[:, 1]
    np.save(path, np.sort(packed))
    return len(chosen)


def timed(command: list[str], out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with status {process.returncode}")
    return Cost(time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def bytes_read(source: Path, subset: Path, out: Path) -> float:
    """Bytes that the kernel was asked to read, a byte of the samples selected."""
    from datacomp_core.resharding.reshard import ReshardSpec, account_folders, reshard_folders
    from datacomp_core.store import Folder

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    _, selected = account_folders(Folder(source), str(subset), ReshardSpec())
    begun = so_far()
    account_folders(Folder(source), str(subset), ReshardSpec())
    planned = so_far()
    shutil.rmtree(out, ignore_errors=True)
    reshard_folders(Folder(source), str(subset), Folder(out), ReshardSpec())
    return (so_far() - planned - (planned - begun)) / selected


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    settings = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3", "LOG_LEVEL": "ERROR"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-m", "ministack"], env=os.environ | settings, **quiet)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(200):
            with suppress(OSError):
                opener.open(f"http://127.0.0.1:{port}/_ministack/health", timeout=2).close()
                break
            time.sleep(0.3)
        import s3fs

        s3fs.S3FileSystem().mkdir("reshard-benchmark")
        yield "s3://reshard-benchmark"
    finally:
        server.kill()  # it would wait for idle connections
        server.wait()


def in_bucket(given: argparse.Namespace, source: Path, subset: Path, uids: np.ndarray) -> None:
    from datacomp_core.store import Folder

    with bucket() as url:
        pool = Folder(f"{url}/pool")
        for path in sorted(source.rglob("*")):
            if path.is_file():
                pool.write(str(path.relative_to(source)), path.read_bytes())
        for number, fraction in enumerate(given.fractions):
            chosen = subset_file(subset, uids, fraction)
            share, requests = asked_of_bucket(pool.url, subset, f"{url}/counted{number}")
            print(f"{fraction:7.0%} {'S3 read':<12} {share:8.3f} bytes per byte selected, {requests:.2f} requests a sample")
            dropped = given.folder / "nothing"
            costs: dict[str, list[Cost]] = {"S3 ours": [], "S3 get all": []}
            for turn in range(given.repeats):
                out = f"{url}/out{number}-{turn}"
                ours = [sys.executable, "-c", OURS, pool.url, str(subset), out, str(given.workers)]
                costs["S3 ours"].append(timed(ours, dropped))
                costs["S3 get all"].append(timed([sys.executable, "-c", GET_ALL, pool.url, str(given.workers)], dropped))
            for name, some in costs.items():
                cost = Cost(*(statistics.median(values) for values in zip(*some, strict=True)))
                rate = f"{chosen / cost.seconds:10,.0f}" if name == "S3 ours" else " " * 10
                print(
                    f"{fraction:7.0%} {name:<12} {cost.seconds:8.2f} {cost.cpu_seconds:8.2f} {rate} {'':6} {cost.peak_mb:8.0f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-reshard"), help="where to work; removed afterwards")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--samples", type=int, default=10_000, help="of a shard")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fractions", type=float, nargs="+", default=(0.03, 0.1, 0.3, 1.0), help="sizes of the subset")
    parser.add_argument("--reference", type=Path, help="a checkout of mlfoundations/datacomp")
    parser.add_argument("--s3", action="store_true", help="the pool in a bucket too")
    given = parser.parse_args()
    source, out, subset = given.folder / "pool", given.folder / "out", given.folder / "subset.npy"
    source.mkdir(parents=True, exist_ok=True)
    try:
        uids = make_shards(source, given.shards, given.samples)
        size = sum(path.stat().st_size for path in source.glob("*.tar"))
        print(f"{len(uids):,} samples, {size / 1e9:.2f} GB, {given.workers} workers, median of {given.repeats}")
        print(f"{'subset':>7} {'contender':<12} {'seconds':>8} {'CPU s':>8} {'samples/s':>10} {'of cp':>6} {'peak MB':>8}")
        for fraction in given.fractions:
            number = subset_file(subset, uids, fraction)
            compare(given, source, out, subset, number, fraction)
        if given.s3:
            in_bucket(given, source, subset, uids)
    finally:
        shutil.rmtree(given.folder)


def compare(given: argparse.Namespace, source: Path, out: Path, subset: Path, number: int, fraction: float) -> None:
    ours = [sys.executable, "-c", OURS, str(source), str(subset), str(out), str(given.workers)]
    bare = given.folder / "same-bytes"
    print(f"{fraction:7.0%} {'read':<12} {bytes_read(source, subset, out):8.3f} bytes per byte selected", flush=True)
    timed(ours, out)
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(out, bare)
    contenders = {"cp": ["cp", "-r", str(bare), str(out)], "ours": ours}
    if given.reference:
        options = ["-i", str(source), "-o", str(out), "-s", str(subset), "-j", str(given.workers)]
        contenders["reference"] = [sys.executable, "-c", REFERENCE, str(given.reference), *options]
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(given.repeats):
        for name, command in contenders.items():
            costs[name].append(timed(command, out))
    middle = {name: Cost(*(statistics.median(values) for values in zip(*some, strict=True))) for name, some in costs.items()}
    for name, cost in middle.items():
        times = cost.seconds / middle["cp"].seconds
        print(
            f"{fraction:7.0%} {name:<12} {cost.seconds:8.2f} {cost.cpu_seconds:8.2f} {number / cost.seconds:10,.0f} "
            f"{times:6.1f} {cost.peak_mb:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
