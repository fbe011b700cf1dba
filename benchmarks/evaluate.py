"""The reference's way of evaluating against ours, alternately, on the same sets and weights.

    python benchmarks/evaluate.py [--images 2000] [--tasks 6] [--workers 2]

The reference's way: for each task load the model, build the classifier one class at a time and decode through
clip_benchmark's reader with four workers a shard, as `eval_utils/wds_eval.py` does.
It stops if an accuracy differs by more than one image.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import polars as pl

import datacomp_core.pool
from datacomp_core import clip
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.evaluate import EvalSpec, evaluate_folder
from datacomp_core.store import scratch

IMAGES = Path(datacomp_core.pool.__file__).parent / "tiny_data" / "images.parquet"
MODEL = "datacomp-tiny"
TEMPLATES = [f"a {kind} of a {{c}}." for kind in ("photo", "drawing", "picture", "sketch", "painting", "close-up", "cartoon")]
CLASSES = 100
SHARDS = 4


def write_sets(root: Path, keys: list[str], count: int) -> None:
    source = pl.read_parquet(IMAGES, columns=["name", "image"])
    for place, key in enumerate(keys):
        home = root / suite("datacomp").task(key).folder
        (home / "test").mkdir(parents=True)
        (home / "test" / "nshards.txt").write_text(str(SHARDS))
        names = source["name"].slice(place * CLASSES, CLASSES)
        (home / "classnames.txt").write_text("\n".join(names))
        (home / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
        for shard in range(SHARDS):
            with tarfile.open(home / "test" / f"{shard}.tar", "w") as tar:
                for number in range(shard, count, SHARDS):
                    row = (place * count + number) % source.height
                    for extension, data in (("cls", str(number % CLASSES).encode()), ("webp", source["image"][row])):
                        info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


def by_reference(root: Path, weights: Path, keys: list[str]) -> dict[str, float]:
    import open_clip
    import torch
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics import zeroshot_classification as zsc

    found: dict[str, float] = {}
    for key in keys:
        model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=str(weights))
        model.eval()
        data: Any = build_wds_dataset(key, transform, "test", str(root / suite("datacomp").task(key).folder))
        loader: Any = torch.utils.data.DataLoader(data.batched(64), batch_size=None, num_workers=SHARDS)
        weight = zsc.zero_shot_classifier(model, open_clip.get_tokenizer(MODEL), data.classes, data.templates, "cpu", amp=False)
        logits, target = zsc.run_classification(model, weight, loader, "cpu", amp=False)
        found[key] = (logits.argmax(dim=1) == target).double().mean().item()
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="of each task")
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    keys = [task.key for task in suite("datacomp").tasks if task.protocol == "classification"][: chosen.tasks]
    seconds: dict[str, list[float]] = {"reference": [], "ours": []}
    worst = 0.0
    with scratch() as folder:
        write_sets(folder / "sets", keys, chosen.images)
        torch.manual_seed(0)
        torch.save({"state_dict": clip.load(MODEL, None, "cpu").model.state_dict()}, folder / "weights.pt")
        spec = EvalSpec(suite="datacomp", tasks=tuple(keys), expected="any")
        for turn in range(2):
            began = time.perf_counter()
            theirs = by_reference(folder / "sets", folder / "weights.pt", keys)
            seconds["reference"].append(time.perf_counter() - began)
            began = time.perf_counter()
            made = evaluate_folder(
                model=MODEL,
                checkpoint=folder / "weights.pt",
                data=str(folder / "sets"),
                out=str(folder / f"out{turn}"),
                spec=spec,
                device="cpu",
                workers=chosen.workers,
            )
            seconds["ours"].append(time.perf_counter() - began)
            ours = {task.key: float(task.metrics["acc1"] or 0.0) for task in made.tasks}
            worst = max(worst, *(abs(ours[key] - theirs[key]) for key in keys))
            assert worst <= 1.01 / chosen.images, f"the numbers differ by {worst}"
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{chosen.tasks} tasks x {chosen.images} images x {CLASSES} classes x {len(TEMPLATES)} templates, {MODEL}, CPU")
    print(f"reference's way {best['reference']:8.1f} s")
    print(f"ours            {best['ours']:8.1f} s   {best['reference'] / best['ours']:.1f}x")
    print(f"accuracies differ by at most {worst:.5f}")


if __name__ == "__main__":
    main()
