"""Small shard sets of coloured noise with captions that name the colour, and recipes that train in seconds."""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from datacomp_core.artifacts import ShardSet, Spec
from datacomp_core.scales import Scale
from datacomp_core.shards import ShardWriter, shard_name, write_index
from datacomp_core.store import Folder, Store, step
from datacomp_core.training.spec import TrainSpec


class NoiseSpec(Spec):
    seed: int = 0
    counts: tuple[int, ...] = (24, 16)


@step("shards", version=1)
def noise(spec: NoiseSpec, *, out: Folder) -> ShardSet:
    numbers = np.random.default_rng(spec.seed)
    for number, count in enumerate(spec.counts):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, shard_name(number))
        for at in range(count):
            uid = hashlib.md5(f"{spec.seed} {number} {at}".encode()).hexdigest()
            hue = int(numbers.integers(8))
            writer.add(uid, uid, members(uid, hue, numbers))
        rows = writer.finish()
        out.write(f"{shard_name(number)}.tar", buffer.getvalue())
        write_index(out, shard_name(number), rows)
    total = sum(spec.counts)
    return ShardSet(num_samples=total, num_unique=total, num_shards=len(spec.counts), scale="tiny", name=f"noise{spec.seed}")


def members(uid: str, hue: int, numbers: np.random.Generator) -> dict[str, bytes]:
    colour = np.array(colorsys.hsv_to_rgb(hue / 8, 1, 1)) * 255
    size = (int(numbers.integers(40, 72)), int(numbers.integers(40, 72)), 3)
    pixels = np.clip(colour + numbers.normal(0, 30, size), 0, 255).astype(np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "JPEG")
    caption = f"a picture of colour number {hue}"
    return {"jpg": image.getvalue(), "txt": caption.encode(), "json": json.dumps({"uid": uid}).encode()}


def recipe(**changes: object) -> Scale:
    row: dict[str, object] = {
        "name": "custom",
        "model": "datacomp-tiny",
        "batch_size": 8,
        "learning_rate": 1e-3,
        "warmup": 2,
        "beta2": 0.98,
        "eps": 1e-6,
        "train_num_samples": 48,
        "num_checkpoints": 2,
        "loader_workers": 1,
        "precision": "fp32",
    }
    return Scale.model_validate(row | changes)


def training(seed: int = 0, **changes: object) -> TrainSpec:
    return TrainSpec(recipe=recipe(**changes), seed=seed)


def store_at(path: Path) -> Store:
    return Store.open(str(path / "store"))
