"""How fast is the training's loader? Samples/s a core and in all, against the floor and against open_clip's webdataset pipeline.

    python benchmarks/loader.py                      (one process, CPU time: what a sample costs)
    python benchmarks/loader.py --workers 16         (wall-clock samples/s of so many processes)

512-px JPEGs at quality 95 in shards made on the spot, cropped and resized to 224. The floor of `fast` and `full` is their decode
and resize alone, on bytes in memory; "of floor" says how near the whole loader comes. A line of JSON a contender, then a table.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 224


def make_shards(folder: Path, samples: int, shards: int) -> list[bytes]:
    """Shards with an index; the JPEGs themselves, for the floors."""
    from PIL import Image

    from datacomp_core.shards import ShardWriter, shard_name, write_index
    from datacomp_core.store import Folder

    random, jpegs = np.random.default_rng(0), []
    for number in range(shards):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, shard_name(number))
        for at in range(samples // shards):
            image, uid = io.BytesIO(), f"{number * samples + at:032x}"
            coarse = Image.fromarray(random.integers(0, 256, (64, 85, 3), np.uint8))
            coarse.resize((512, 384), Image.Resampling.BICUBIC).save(image, "JPEG", quality=95)
            jpegs.append(image.getvalue())
            writer.add(
                uid, uid, {"jpg": jpegs[-1], "txt": f"a photo of the thing with the number {at}, black and white".encode()}
            )
        Folder(folder).write(f"{shard_name(number)}.tar", buffer.getvalue())
        write_index(Folder(folder), shard_name(number), writer.finish())
    return jpegs


def made_of(folder: Path) -> tuple[tuple[str, int], ...]:
    """Names and sizes of the shards of a folder, by their index."""
    import polars as pl

    found = sorted((folder / "index").glob("*.parquet"))
    return tuple((path.stem, pl.scan_parquet(path).select(pl.len()).collect().item()) for path in found)


def batches_of(folder: Path, decoding: str, batch: int, shards: tuple[tuple[str, int], ...]) -> Any:
    from datacomp_core import clip
    from datacomp_core.training.data import BatchSlice, MicroBatchDataset, order_of
    from datacomp_core.training.samples import SampleReader, ShardSource

    source = ShardSource(url=str(folder), index=str(folder), shards=shards)
    way: dict[str, Any] = {"jpeg_room": 3 * SIDE * SIDE} if decoding == "cuda" else {"decoding": decoding}
    reader = SampleReader((source,), clip.tokenizer_of("ViT-B-32"), cache=str(folder), cache_bytes=0, **way)
    order = order_of(0, batch, [count for _, count in shards], [1.0] * len(shards))
    return MicroBatchDataset(order, reader, BatchSlice(0, 1, 1), (SIDE, SIDE), tolerant=False)


def ours(folder: Path, decoding: str, given: argparse.Namespace) -> Iterator[int]:
    import torch

    from datacomp_core.training.data import MicroBatchStream

    batches = batches_of(folder, decoding, given.batch, made_of(folder))
    steps = MicroBatchStream(
        batches, steps_per_epoch=1 << 20, epochs=1, first=0, workers=given.workers, device=torch.device("cpu"), ahead=0
    )
    stream = steps._loaded()
    for micro in stream:
        yield len(micro.pixels)


def plain(folder: Path, given: argparse.Namespace) -> Iterator[int]:
    """open_clip's transform and tokenizer over webdataset, as `open_clip_train.data` puts them together."""
    import open_clip
    import webdataset as wds
    from open_clip.transform import AugmentationCfg, image_transform

    transform = image_transform(SIDE, is_train=True, aug_cfg=AugmentationCfg(scale=(0.9, 1.0)))
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = (
        wds.WebDataset(urls, resampled=True, shardshuffle=False)
        .shuffle(200)
        .decode("pilrgb")
        .rename(image="jpg", text="txt")
        .map_dict(image=transform, text=lambda text: tokenizer(text)[0])
        .to_tuple("image", "text")
        .batched(given.batch)
    )
    for images, _ in wds.WebLoader(data, batch_size=None, num_workers=given.workers):
        yield len(images)


def floor(jpegs: list[bytes], decoding: str, *, decode_only: bool = False) -> Callable[[], Iterator[int]]:
    from datacomp_core.pictures import open_picture, rgb
    from datacomp_core.training.samples import CROP_NUMBERS, augmented

    numbers = np.random.default_rng(0).random(CROP_NUMBERS)

    def run() -> Iterator[int]:
        while True:
            for data in jpegs:
                image = rgb(data) if decoding == "fast" or decode_only else open_picture(data)
                if not decode_only:
                    augmented(image, numbers, (SIDE, SIDE))
                yield 1

    return run


def measured(stream: Iterator[int], seconds: float) -> tuple[float, float]:
    """CPU milliseconds of this process a sample, and samples/s by the clock, after a warm-up."""
    next(stream)
    wall, cpu, count = time.monotonic(), time.process_time(), 0
    while time.monotonic() - wall < seconds:
        count += next(stream)
    return 1000 * (time.process_time() - cpu) / count, count / (time.monotonic() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: this one")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each contender")
    parser.add_argument("--rounds", type=int, default=3, help="the least CPU time and the highest rate of so many count")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        jpegs = make_shards(folder, given.samples, given.shards)
        contenders: dict[str, Callable[[], Iterator[int]]] = {
            "JPEG decode alone": floor(jpegs, "fast", decode_only=True),
            "floor of full": floor(jpegs, "full"),
            "loader, full": lambda: ours(folder, "full", given),
            "floor of fast": floor(jpegs, "fast"),
            "loader, fast": lambda: ours(folder, "fast", given),
            "open_clip's pipeline": lambda: plain(folder, given),
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(given.rounds):  # in turn, so that other work on the machine disturbs all alike
            for name, make in contenders.items():
                runs[name].append(measured(make(), given.seconds / given.rounds))
        best = {name: (min(cpu for cpu, _ in some), max(rate for _, rate in some)) for name, some in runs.items()}
        for name in contenders:
            row = {"contender": name, "cpu_ms": round(best[name][0], 3), "samples_per_second": round(best[name][1], 1)}
            sys.stdout.write(json.dumps(row | {"workers": given.workers}) + "\n")
    print(f"\n{'':24}{'CPU ms/sample':>15}{'samples/s':>12}{'of floor':>10}")
    for name, (cpu, rate) in best.items():
        under = best.get(name.replace("loader, ", "floor of "), (0.0, 0.0)) if name.startswith("loader") else (0.0, 0.0)
        share = f"{under[0] / cpu:10.0%}" if under[0] and not given.workers else ""
        print(f"{name:24}{'' if given.workers and 'floor' not in name else f'{cpu:.2f}':>15}{rate:12.0f}{share}")


if __name__ == "__main__":
    main()
