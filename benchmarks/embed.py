"""Embedding end to end against the model's bare forward pass and clip-retrieval's way, on shards of real images.

    python benchmarks/embed.py [--model datacomp-tiny] [--samples 4000] [--workers 2] [--device cpu]

All are measured in turn, three times, in one run; the best of each is printed. "Without start" leaves out what comes before the
first batch is done: processes, imports, the model.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

import datacomp_core.pool
from datacomp_core import clip, shards
from datacomp_core.artifacts import Checkpoint, Pool, ShardSet, Spec
from datacomp_core.device import default_device
from datacomp_core.embedding.embed import embed
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.progress import NoProgress
from datacomp_core.store import Folder, Store, scratch, step
from datacomp_core.uid import uid_of

IMAGES = Path(datacomp_core.pool.__file__).parent / "tiny_data" / "images.parquet"
SHARD_SAMPLES = 1000


class Wanted(Spec):
    scale: str = "tiny"
    samples: int
    side: int
    model: str
    turn: int = 0


def pairs(spec: Wanted) -> pl.DataFrame:
    source = pl.read_parquet(IMAGES, columns=["name", "image"])
    rows = source[[n % source.height for n in range(spec.samples)]]
    uids = [uid_of(str(n), name) for n, name in enumerate(rows["name"])]
    return rows.with_columns(pl.Series("uid", uids), text=pl.lit("a picture of ") + pl.col("name"))


@step("pools", version=1)
def pool_of(spec: Wanted, *, out: Folder) -> Pool:
    with out.writing("metadata/00000000.parquet") as path:
        pairs(spec).select("uid", "text").write_parquet(path)
    return Pool(num_samples=spec.samples, num_parts=1)


@step("shards", version=1)
def shards_of(spec: Wanted, *, out: Folder) -> ShardSet:
    table = pairs(spec)
    for number, rows in enumerate(table.iter_slices(SHARD_SAMPLES)):
        name = shards.shard_name(number)
        with out.writing(f"{name}.tar") as path, path.open("wb") as file:
            writer = shards.ShardWriter(file, name)
            for uid, data in zip(rows["uid"], rows["image"], strict=True):
                writer.add(uid, uid, {"jpg": jpeg(data, spec.side), "txt": b"a picture of a thing"})
            shards.write_index(out, name, writer.finish())
    return ShardSet(num_samples=spec.samples, num_unique=spec.samples, num_shards=-(-spec.samples // SHARD_SAMPLES))


@step("checkpoints", version=1)
def weights_of(spec: Wanted, *, out: Folder) -> Checkpoint:
    import torch

    with out.writing("checkpoint.pt") as path:
        torch.save({"state_dict": clip.load(spec.model, None, "cpu").model.state_dict()}, path)
    return Checkpoint(model=spec.model, seed=spec.turn, samples_seen=0, steps=0)


def jpeg(data: bytes, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((side, side)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def forward(model: clip.Clip, count: int, batch: int) -> float:
    """Seconds for as many images and captions that lie in memory already."""
    import torch

    size = model.pixels.height, model.pixels.width
    pixels = np.random.default_rng(0).integers(0, 255, (batch, 3, *size), dtype=np.uint8)
    texts = [f"a picture of number {n}" for n in range(batch)]
    began = time.perf_counter()
    for _ in range(-(-count // batch)):
        images, captions = model.encode_images(pixels), model.encode_texts(texts)
        (images * captions).sum().item()
    if model.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def as_clip_retrieval(tars: Folder, model: clip.Clip, batch: int, workers: int) -> tuple[float, float]:
    """Seconds in all and from the first batch on, by the way of clip-retrieval 2: webdataset in a DataLoader whose
    workers transform and tokenize, float32 pixels through its queue, one tower after the other, each copied back at once."""
    import torch
    import webdataset
    from torch.utils.data import DataLoader

    def sample(item: dict[str, Any]) -> dict[str, Any]:
        return {"image": model.preprocess(item["jpg"]), "text": model.tokenize([item["txt"]])[0]}

    urls = [tars.at(name) for name in tars.files(".tar")]
    data = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").map(sample)
    began, first, seen = time.perf_counter(), 0.0, 0
    with torch.no_grad():
        for item in DataLoader(data, batch_size=batch, num_workers=min(workers, len(urls)), pin_memory=model.device != "cpu"):
            for tower, name in ((model.model.encode_image, "image"), (model.model.encode_text, "text")):
                features: Any = tower(item[name].to(model.device))
                (features / features.norm(dim=-1, keepdim=True)).cpu().to(torch.float16).numpy()
            first = first or time.perf_counter()
            seen += len(item["text"])
    ended = time.perf_counter()
    return ended - began, (ended - first) * seen / (seen - batch)


class FirstBatch(NoProgress):
    """When the first batch was done, and how many samples it had."""

    def __init__(self) -> None:
        self.at, self.samples = 0.0, 0

    def advance(self, done: int, **counts: int) -> None:
        if done and not self.at:
            self.at, self.samples = time.perf_counter(), done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="datacomp-tiny")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--side", type=int, default=64, help="pixels of the stored images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="")
    parser.add_argument("--batch", type=int, default=256)
    chosen = parser.parse_args()
    device = chosen.device or default_device()
    model = clip.load(chosen.model, None, device)
    times: dict[str, list[float]] = {}
    with scratch() as folder:
        store = Store.open(str(folder))
        spec = Wanted(samples=chosen.samples, side=chosen.side, model=chosen.model)
        pool, tars = pool_of(spec, store=store), shards_of(spec, store=store)
        for turn in range(3):
            weights = weights_of(spec.model_copy(update={"turn": turn}), store=store)
            times.setdefault("bare forward", []).append(forward(model, chosen.samples, chosen.batch))
            began, heard = time.perf_counter(), FirstBatch()
            how = {"workers": chosen.workers, "device": device, "progress": heard}
            embed(EmbedSpec(batch_size=chosen.batch), pool, tars, (weights,), store=store, **how)
            ended = time.perf_counter()
            times.setdefault("embed, whole", []).append(ended - began)
            share = chosen.samples / (chosen.samples - heard.samples)
            times.setdefault("embed, without start", []).append((ended - heard.at) * share)
            whole, going = as_clip_retrieval(store.folder(tars), model, chosen.batch, chosen.workers)
            times.setdefault("clip-retrieval's way, whole", []).append(whole)
            times.setdefault("clip-retrieval's way, without start", []).append(going)
    print(f"{chosen.model} on {device}, {chosen.samples} samples of {chosen.side} px, {chosen.workers} workers")
    fastest = chosen.samples / min(times["bare forward"])
    for name, seconds in times.items():
        rate = chosen.samples / min(seconds)
        print(f"{name:36} {rate:10,.0f} pairs/s {rate / fastest:6.0%}")


if __name__ == "__main__":
    main()
