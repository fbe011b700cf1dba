"""The stages of `gpu_day.sh`, each a process of its own: `gpu_day.py STAGE [--rehearse]`. Prints lines of JSON.

tests: tests/gpu. train: samples/s of `small`'s recipe on batches that cost nothing (the ceiling), then through the loader, exact,
fast and decoded on the GPU; with fused AdamW, and compiled; hours for `small`. What does not fit the GPU's memory is tried again
with more gradient checkpointing and accumulation, as a training does. embed, evaluate: those benchmarks. nearest:
image_based's nearest centroids by torch and by faiss, and k-means on this device and on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|ALLOC_FAILED", re.IGNORECASE)
SMALL_SAMPLES = 12_861_440  # of `small`: 3,140 steps of 4,096


def tell(stage: str, **found: Any) -> None:
    sys.stdout.write(json.dumps({"stage": stage, **found}) + "\n")
    sys.stdout.flush()


def tests(device: str, *, rehearse: bool) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", "-m", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)
    last = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}
    tell("tests", device=device, **counts, status=done.returncode)
    if done.returncode:
        raise SystemExit(f"tests/gpu ended with status {done.returncode}: {last}")


class Ceiling:
    """The same batch again and again: what the loop and the model take when data costs nothing."""

    def __init__(self, model: str, batch: int, device: str, steps: int) -> None:
        import torch

        from datacomp_core import clip

        known = clip.config_of(model)
        side, context = known["vision_cfg"]["image_size"], known["text_cfg"]["context_length"]
        self.step, self.waited, self.count = 0, 0.0, steps
        self.batch = torch.rand(batch, 3, side, side, device=device), torch.randint(1, 49000, (batch, context))

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            yield self.batch


def train(device: str, *, rehearse: bool) -> None:
    """Each variant in turn, as long as the time lasts. The status is 1 if one failed."""
    from loader import make_shards

    with tempfile.TemporaryDirectory() as scratch:
        make_shards(Path(scratch), 64 if rehearse else 400, 4)
        variants: list[tuple[str, str, dict[str, Any]]] = [
            ("ceiling", "", {}),
            ("ceiling, fused", "", {"optimizer": "fused"}),
            ("full", "full", {"optimizer": "fused"}),
            ("fast", "fast", {"optimizer": "fused"}),
            ("cuda", "cuda", {"optimizer": "fused"}),
        ]
        variants += [] if rehearse else [("ceiling, fused, compiled", "", {"optimizer": "fused", "compiled": "torch.compile"})]
        failed: list[str] = []
        for name, decoding, options in variants:
            try:
                tell("train", variant=name, **rate(Path(scratch), decoding, options, device, rehearse=rehearse))
            except Exception as problem:  # the next variant may do
                tell("train", variant=name, error=f"{type(problem).__name__}: {problem}"[:300])
                failed.append(name)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(variants)} variants failed: {'; '.join(failed)}")


def rate(folder: Path, decoding: str, options: dict[str, Any], device: str, *, rehearse: bool) -> dict[str, Any]:
    """Samples/s of a variant, with gradient checkpointing and accumulation as memory asks for them."""
    from datacomp_core import clip
    from datacomp_core.scales import SCALES, Scale
    from datacomp_core.training.arguments import RuntimeOptions
    from datacomp_core.training.cuda_decoding import decoder_name
    from datacomp_core.training.memory import device_bytes, memory_options
    from datacomp_core.training.spec import TrainSpec

    clip.register()
    batch, steps = (8, 3) if rehearse else (4096, 12)
    changes = {"name": "custom", "model": "datacomp-tiny" if rehearse else "ViT-B-32", "batch_size": batch}
    changes |= {"num_checkpoints": 1, "loader_workers": 1, "train_num_samples": batch * steps}
    spec = TrainSpec(recipe=Scale.model_validate(SCALES["small"].model_dump() | changes | {"decoding": decoding or "full"}))
    machines = memory_options(spec, RuntimeOptions(device=device, **options), 0 if device == "cpu" else device_bytes())
    found = first_that_fits(machines, lambda machine: _rate(spec, machine, folder if decoding else None, rehearse=rehearse))
    return found | ({"jpegs_by": decoder_name(device)} if decoding == "cuda" else {})


def first_that_fits(machines: Sequence[Any], measure: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` finds with the first of some ways of using memory for which there is enough; the others are named in it."""
    import torch

    too_large: list[str] = []
    for machine in machines:
        try:
            found = measure(machine)
            return found | ({"out_of_memory": too_large} if too_large else {})
        except RuntimeError as problem:
            if not OUT_OF_MEMORY.search(f"{type(problem).__name__}: {problem}") or machine is machines[-1]:
                raise
            too_large.append(machine.memory_words)
        gc.collect()  # the model of the try before
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise AssertionError("there is no way to train")


def _rate(spec: Any, machine: Any, folder: Path | None, *, rehearse: bool) -> dict[str, Any]:
    """Samples/s after the first step through the loader, or without it; and what a whole `small` would take."""
    import torch

    from datacomp_core.training.components import build
    from datacomp_core.training.hooks import Hook
    from datacomp_core.training.loop import TrainingLoop
    from datacomp_core.training.rank_context import RankContext

    batch, place, is_cuda = spec.recipe.batch_size, RankContext(machine.device), not machine.is_cpu
    if is_cuda:  # the variants run in one process: neither memory nor its peak is another one's
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    parts = build(spec, machine, place)
    times: list[float] = []

    class Clock(Hook):
        def after_step(self, loop: TrainingLoop) -> None:
            if is_cuda:
                torch.cuda.synchronize()
            times.append(time.monotonic())

    if folder is None:
        data: Any = Ceiling(spec.recipe.model, batch // machine.accumulation, machine.device, spec.steps * machine.accumulation)
    else:
        data = _through_the_loader(spec, machine, place, folder, parts.transform, rehearse=rehearse)
    TrainingLoop(spec, machine, place, parts, data, [Clock()]).run()
    first = 3 if len(times) > 6 else 0
    found = batch * (len(times) - 1 - first) / (times[-1] - times[first])
    memory = {"gpu_gb": round(torch.cuda.max_memory_reserved() / 2**30, 1)} if is_cuda else {}
    return {
        "samples_per_second": round(found, 1),
        "hours_small": round(SMALL_SAMPLES / found / 3600, 2),
        "accumulation": machine.accumulation,
        "checkpointing": machine.checkpointing,
        **memory,
    }


def _through_the_loader(spec: Any, machine: Any, place: Any, folder: Path, transform: Any, *, rehearse: bool) -> Any:
    """Micro-batches of the shards of a folder, decoded by processes as in a training."""
    from datacomp_core.training.job import RankJob
    from datacomp_core.training.samples import ShardSource
    from datacomp_core.training.session import steps_of

    shards = tuple((path.stem, 16 if rehearse else 100) for path in sorted(folder.glob("*.tar")))
    source = ShardSource(url=str(folder), index=str(folder), shards=shards)
    workers = 1 if rehearse else max(1, len(os.sched_getaffinity(0)) - 1)
    job = RankJob(spec=spec, machine=machine, sources=(source,), folder=str(folder), loader_workers=workers)
    return steps_of(job, place, transform, 0)


def embed(device: str, *, rehearse: bool) -> None:
    models = ("datacomp-tiny",) if rehearse else ("ViT-B-32", "ViT-L-14")
    for model in models:
        size = ["--samples", "64", "--side", "64", "--batch", "32"] if rehearse else ["--samples", "4000", "--side", "256"]
        workers = "2" if rehearse else str(len(os.sched_getaffinity(0)))
        _benchmark("embed", "embed.py", ["--model", model, "--device", device, "--workers", workers, *size], model=model)


def evaluate(device: str, *, rehearse: bool) -> None:
    workers = "1" if rehearse else str(len(os.sched_getaffinity(0)))
    size = ["--images", "20"] if rehearse else ["--images", "1000", "--model", "ViT-B-32"]
    _benchmark("evaluate", "evaluate.py", [*size, "--device", device, "--workers", workers], device=device)


def _benchmark(stage: str, script: str, options: list[str], **named: Any) -> None:
    done = subprocess.run([sys.executable, str(HERE / script), *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} ended with status {done.returncode}: {done.stderr.strip()[-400:]}")
    tell(stage, **named, table=[line.rstrip() for line in done.stdout.splitlines() if line.strip()])


def nearest(device: str, *, rehearse: bool) -> None:
    from datacomp_core.selection.kmeans import kmeans
    from datacomp_core.vectors.nearest import by_faiss, by_torch

    rows, centroids, width = (2_000, 500, 64) if rehearse else (200_000, 100_000, 768)
    random = np.random.default_rng(0)
    vectors, near = (random.standard_normal((count, width), np.float32) for count in (rows, centroids))
    vectors, near = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors, near))
    few, seconds = vectors[: max(1, rows // 100)], dict[str, float]()
    by_faiss(few, near, 2)
    began = time.monotonic()
    _, by_cpu = by_faiss(few, near, 2)
    seconds["faiss_cpu"] = (time.monotonic() - began) * rows / len(few)
    by_torch(few, near, 2, device)
    began = time.monotonic()
    _, places = by_torch(vectors, near, 2, device)
    seconds["torch"] = time.monotonic() - began
    equal = float((places[: len(few), 0] == by_cpu[:, 0]).mean())
    points, clusters, rounds = (vectors, 50, 3) if rehearse else (vectors[:50_000], 1_000, 20)
    for where in dict.fromkeys((device, "cpu")):
        os.environ["DATACOMP_DEVICE"] = where
        began = time.monotonic()
        kmeans(points, clusters, rounds=rounds)
        seconds[f"kmeans_{where}"] = time.monotonic() - began
    import faiss

    tell(
        "nearest",
        device=device,
        rows=rows,
        centroids=centroids,
        seconds={k: round(v, 3) for k, v in seconds.items()},
        equal=equal,
        faiss_gpus=getattr(faiss, "get_num_gpus", lambda: 0)(),
    )


STAGES = {"tests": tests, "train": train, "embed": embed, "evaluate": evaluate, "nearest": nearest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small shapes")
    given = parser.parse_args()
    from datacomp_core.device import has_cuda

    if not given.rehearse and not has_cuda():
        raise SystemExit("torch finds no CUDA device on this machine: give --rehearse to run the same code on the CPU.")
    sys.path.insert(0, str(HERE))
    STAGES[given.stage]("cpu" if given.rehearse else "cuda", rehearse=given.rehearse)


if __name__ == "__main__":
    main()
