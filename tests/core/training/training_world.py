"""Small shard sets of coloured noise with captions that name the colour, and recipes that train in seconds."""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from datacomp_core.artifacts import ShardSet, Spec
from datacomp_core.scales import Scale
from datacomp_core.shards import ShardWriter, shard_name, write_index
from datacomp_core.store import Folder, Store, step
from datacomp_core.training.history import read_history
from datacomp_core.training.launch import TorchrunLayout
from datacomp_core.training.resume import RESUME
from datacomp_core.training.spec import TrainSpec

HERE = Path(__file__).parent


class NoiseSpec(Spec):
    seed: int = 0
    counts: tuple[int, ...] = (24, 16)
    drawn: bool = False
    """Whether each sample has several captions in its json, of which one is drawn each time."""


@step("shards", version=1)
def noise(spec: NoiseSpec, *, out: Folder) -> ShardSet:
    numbers = np.random.default_rng(spec.seed)
    for number, count in enumerate(spec.counts):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, shard_name(number))
        for at in range(count):
            uid = hashlib.md5(f"{spec.seed} {number} {at}".encode()).hexdigest()
            hue = int(numbers.integers(8))
            sample = members(uid, hue, numbers)
            if spec.drawn:
                sample["json"] = json.dumps({"uid": uid, **captions_of(uid, hue, at)}).encode()
            writer.add(uid, uid, sample)
        rows = writer.finish()
        out.write(f"{shard_name(number)}.tar", buffer.getvalue())
        write_index(out, shard_name(number), rows)
    total = sum(spec.counts)
    if spec.drawn:
        out.write_json("captions.json", {"policy": "draw", "sources": {}, "draw": DRAW, "fields": FIELDS})
    return ShardSet(num_samples=total, num_unique=total, num_shards=len(spec.counts), scale="tiny", name=f"noise{spec.seed}")


def captions_of(uid: str, hue: int, at: int) -> dict[str, str]:
    """One to four captions: every fifth sample has none of the model, and the others two."""
    generated = {"caption_blip2": f"colour {hue}", "caption_blip2_2": f"a square of colour {hue} with noise"} if at % 5 else {}
    return {"caption_raw": f"a picture of colour number {hue}", "caption_late": f"late {uid[:4]}", **generated}


DRAW = {"raw": 0.25, "blip2": 0.75, "late": 0.0}
FIELDS = {"raw": ["caption_raw"], "blip2": ["caption_blip2", "caption_blip2_2"], "late": ["caption_late"]}


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


# Whole trainings in processes of their own, to be killed -----------------------------------------------------------


def start(store: Store, spec: TrainSpec, layout: TorchrunLayout, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "train_once.py"), store.root.url, spec.model_dump_json(), layout.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment})


def run_folder(store: Store) -> Path | None:
    return next(iter(sorted(store.root.path.glob(f"checkpoints/*/*/attempt-*/{RESUME}"))), None)


def wait_for(what: Callable[[], bool], seconds: float = 240) -> None:
    for _ in range(int(seconds * 20)):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def ranks(folder: Path) -> list[int]:
    """Processes that have the run's folder on their command line, but torchrun."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and b"datacomp_core.training.elastic" not in words:
            found.append(int(entry.name))
    return sorted(found)


def reach(started: subprocess.Popen[bytes], find: Callable[[], Path | None], step: int) -> Path:
    """Wait until a training has logged `step`; its run folder. AssertionError with its words if it ended before."""

    def reached() -> bool:
        assert started.poll() is None, started.stderr and started.stderr.read().decode()
        folder = find()
        return folder is not None and len(read_history(folder / "history.jsonl")) > step

    wait_for(reached)
    folder = find()
    assert folder is not None
    return folder


def kill_at_step(store: Store, spec: TrainSpec, step: int, processes: int, victim: str, **environment: str) -> Path:
    """Start a training and end it with SIGKILL once it has logged `step`. All of its processes are gone within a minute."""
    started = start(store, spec, TorchrunLayout(processes=processes, threads=1), **environment)
    folder = reach(started, lambda: run_folder(store), step)
    os.kill(started.pid if victim == "launcher" else ranks(folder)[-1], signal.SIGKILL)
    started.wait(60)
    wait_for(lambda: not ranks(folder), 60)
    return folder
