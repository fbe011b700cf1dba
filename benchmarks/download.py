"""What safety, ledger and index cost: images a second of plain img2dataset and of ours, alternately, over one local server.

The server shows JPEGs of about 640 x 480 in a process of its own. Each run is a process; what a run of one image costs (imports,
start of workers) is taken off. CPU seconds are those of the run and its workers, so that a loaded machine does not count.
Run: python benchmarks/download.py [images] [rounds]
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from datacomp_core.parts import SCHEMA
from datacomp_core.uid import uid_of

PICTURES = 64
SHARD = 500
THREADS = 32

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
bodies = [path.read_bytes() for path in sorted(Path(sys.argv[1]).glob("*.jpg"))]
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = bodies[int(self.path.strip("/").split(".")[0]) % len(bodies)]
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    def log_message(self, *args): ...
class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

PLAIN = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(
        url_list=sys.argv[1], output_folder=sys.argv[2] + "/out", input_format="parquet", url_col="url", caption_col="text",
        bbox_col="face_bboxes", save_additional_columns=["uid"], output_format="webdataset", processes_count=1,
        thread_count={threads}, image_size=512, resize_mode="keep_ratio_largest", resize_only_if_bigger=True, encode_quality=95,
        number_sample_per_shard={shard}, compute_hash="sha256", retries=2, timeout=10, enable_wandb=False, oom_shard_count=8,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )
"""

OURS = """
import sys
from pathlib import Path
import polars as pl
from datacomp_core.artifacts import Pool
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store
if __name__ == "__main__":
    folder = Path(sys.argv[2])
    (folder / "pool/metadata").mkdir(parents=True)
    (folder / "pool/metadata/0.parquet").symlink_to(sys.argv[1])
    rows = pl.scan_parquet(sys.argv[1]).select(pl.len()).collect().item()
    pool = Pool(scale="custom", name="web", data="pool", fingerprint="f" * 64, num_samples=rows, num_parts=1)
    download_images(
        ImageSpec(samples_per_shard={shard}), pool, store=Store.open(sys.argv[2]), workers=1, threads={threads},
        open_networks="127.0.0.0/8",
    )
"""


def picture(seed: int) -> bytes:
    """A JPEG with detail at all scales, as a photograph has."""
    chance = np.random.default_rng(seed)
    pixels = np.zeros((480, 640, 3), np.float32)
    for side in (2, 8, 32, 128):
        rough = Image.fromarray(chance.integers(0, 256, (side, side, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        pixels += np.asarray(rough, np.float32) / side**0.5
    pixels *= 255 / pixels.max()
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def serving(folder: Path) -> Generator[int]:
    for number in range(PICTURES):
        (folder / f"{number:03d}.jpg").write_bytes(picture(number))
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


def run(script: str, root: Path, parquet: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    with tempfile.TemporaryDirectory(dir=root) as out:
        file = Path(out) / "run.py"
        file.write_text(script.format(threads=THREADS, shard=SHARD))
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        quiet = {
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "env": os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
        }
        subprocess.run([sys.executable, str(file), str(parquet), out], check=True, **quiet)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(images: int = 3000, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as port:
        root = Path(folder)
        files = []
        for count in (1, images):
            urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(count)]
            columns = {column: [None] * count for column in SCHEMA} | {
                "uid": [uid_of(url, "") for url in urls],
                "url": urls,
                "text": [f"picture {number}" for number in range(count)],
                "face_bboxes": [[[0.1, 0.1, 0.3, 0.3]] if number % 5 == 0 else [] for number in range(count)],
            }
            files.append(root / f"{count}.parquet")
            pl.DataFrame(columns, schema=SCHEMA).write_parquet(files[-1])
        scripts = {"img2dataset": PLAIN, "ours": OURS}
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
        wholes: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
        for number in range(rounds):
            for name, script in scripts.items() if number % 2 else reversed(scripts.items()):
                starts[name].append(run(script, root, files[0]))
                wholes[name].append(run(script, root, files[1]))
                print(f"  {name}: start-up {starts[name][-1]}, whole {wholes[name][-1]} (wall, CPU seconds)", flush=True)
        start = {name: [min(one[i] for one in some) for i in (0, 1)] for name, some in starts.items()}
        found = {name: [[whole[i] - start[name][i] for i in (0, 1)] for whole in some] for name, some in wholes.items()}
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{images:,} images, {rounds} rounds, one process of {THREADS} threads; {load}")
    print("| | images/s | CPU ms an image | start-up, s |\n|---|---|---|---|")
    for name, times in found.items():
        wall, cpu = (statistics.median(one[i] for one in times) for i in (0, 1))
        print(f"| {name} | {images / wall:,.0f} | {1000 * cpu / images:.2f} | {start[name][0]:.1f} |")
    for i, what in ((0, "wall time"), (1, "CPU time")):
        ratios = [ours[i] / plain[i] for plain, ours in zip(found["img2dataset"], found["ours"], strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"{what}, ours / img2dataset: median {statistics.median(ratios):.2f} ({each})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
