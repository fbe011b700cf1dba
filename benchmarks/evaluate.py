"""The reference's way of evaluating against ours, alternately, task by task and as a whole, on the same sets and weights.

    python benchmarks/evaluate.py [--images 1000] [--workers 2] [--device cuda] [--model ViT-B-32]

The reference's way, as in its `eval_utils/`: the model is loaded for each task, a classifier built one class at a time, images
decoded through clip_benchmark's reader with four workers that share out shards; WILDS sets are read and decoded a second time
for their metadata; WinoGAViL encodes the images of each instance anew. On a CPU it stops if a score differs by more than one
sample; on a GPU, with random weights and fp16, it only tells by how much they differ.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from PIL import Image

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
PLAIN = ("vtab/caltech101", "cifar10", "food101")
GROUPED = "wilds/fmow"
ASSOCIATIONS = "misc/winogavil"
KEYS = (*PLAIN, GROUPED, ASSOCIATIONS)


def write_sets(root: Path, count: int) -> None:
    source = pl.read_parquet(IMAGES, columns=["name", "image"])
    for place, key in enumerate((*PLAIN, GROUPED)):
        home = root / suite("datacomp").task(key).folder
        (home / "test").mkdir(parents=True)
        (home / "test" / "nshards.txt").write_text(str(SHARDS))
        (home / "classnames.txt").write_text("\n".join(source["name"].slice(place * CLASSES, CLASSES)))
        (home / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
        for shard in range(SHARDS):
            with tarfile.open(home / "test" / f"{shard}.tar", "w") as tar:
                for number in range(shard, count, SHARDS):
                    image = source["image"][(place * count + number) % source.height]
                    members = {"cls": str(number % CLASSES).encode(), "webp": image}
                    if key == GROUPED:
                        buffer = io.BytesIO()
                        np.save(buffer, np.array([number % 5, number % 16, number % CLASSES]))
                        members["npy"] = buffer.getvalue()
                    for extension, data in members.items():
                        info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
    write_associations(root / "winogavil", source, count)


def write_associations(home: Path, source: pl.DataFrame, count: int) -> None:
    """As many instances as images of another set, over a third of as many images."""
    home.mkdir()
    random, pool = np.random.default_rng(0), max(count // 3, 12)
    with zipfile.ZipFile(home / "images.zip", "w") as file:
        for number in range(pool):
            file.writestr(f"{number}.webp", source["image"][number])
    with (home / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("cue", "candidates", "associations"))
        for number in range(count // 3):
            names = [str(name) for name in random.choice(pool, int(random.choice([5, 6, 10, 12])), replace=False)]
            writer.writerow((source["name"][number], json.dumps(names), json.dumps(names[:3])))


def loaded(weights: Path, name: str, device: str) -> tuple[Any, Any, Any]:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(weights), device=device)
    return model.eval(), transform, open_clip.get_tokenizer(name)


def by_reference(root: Path, weights: Path, key: str, name: str, device: str) -> float:
    import torch
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics import zeroshot_classification as zsc

    model, transform, tokenize = loaded(weights, name, device)
    if key == ASSOCIATIONS:
        return associations_by_reference(root / "winogavil", model, transform, tokenize, device)
    folder = str(root / suite("datacomp").task(key).folder)
    data: Any = build_wds_dataset(key, transform, "test", folder)
    loader: Any = torch.utils.data.DataLoader(data.batched(64), batch_size=None, num_workers=SHARDS)
    weight = zsc.zero_shot_classifier(model, tokenize, data.classes, data.templates, device, amp=device != "cpu")
    logits, target = zsc.run_classification(model, weight, loader, device, amp=False)
    if key == GROUPED:  # the second pass, for the metadata: every image is decoded again
        again: Any = build_wds_dataset(key, lambda image: 0, "test", folder)
        for _ in torch.utils.data.DataLoader(again.batched(64), batch_size=None, num_workers=SHARDS):
            pass
    return (logits.argmax(dim=1) == target).double().mean().item()


def associations_by_reference(home: Path, model: Any, transform: Any, tokenize: Any, device: str) -> float:
    import torch
    from sklearn.metrics import jaccard_score

    archive, scores = zipfile.ZipFile(home / "images.zip"), []
    for row in csv.DictReader((home / "test.csv").open(newline="")):
        names, right = json.loads(row["candidates"]), json.loads(row["associations"])
        pixels = torch.stack([transform(Image.open(io.BytesIO(archive.read(f"{name}.webp")))) for name in names])
        cue = row["cue"].lower()
        with torch.no_grad(), torch.autocast(device, enabled=device != "cpu"):
            images = torch.nn.functional.normalize(model.encode_image(pixels.to(device)), dim=-1)
            text = model.encode_text(tokenize([f"{'An' if cue[0] in 'aeiou' else 'A'} {cue}"]).to(device))
            similar = (torch.nn.functional.normalize(text, dim=-1) @ images.T).squeeze(0).float().cpu().numpy()
        chosen = np.isin(np.arange(len(names)), np.argsort(similar)[-len(right) :])
        scores.append(jaccard_score(np.isin(names, right), chosen))
    return float(np.mean(scores))


def by_ours(folder: Path, keys: tuple[str, ...], out: str, chosen: argparse.Namespace) -> dict[str, float]:
    made = evaluate_folder(
        model=chosen.model,
        checkpoint=folder / "weights.pt",
        data=str(folder / "sets"),
        out=str(folder / out),
        spec=EvalSpec(suite="datacomp", tasks=keys, expected="any"),
        device=chosen.device,
        workers=chosen.workers,
    )
    metric = {ASSOCIATIONS: "avg_jaccard_score"}
    return {task.key: float(task.metrics[metric.get(task.key, "acc1")] or 0.0) for task in made.tasks}


def timed(work: Callable[[], Any]) -> tuple[Took, Any]:
    began, clock = cpu_seconds(), time.perf_counter()
    found = work()
    return Took(time.perf_counter() - clock, cpu_seconds() - began), found


class Took(NamedTuple):
    """Seconds by the clock, and of CPU in this process and its children, which other work on the machine disturbs less."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="of each task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default=MODEL, help="with random weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    chosen = parser.parse_args()
    rows: list[tuple[str, Took, Took]] = []
    with scratch() as folder:
        write_sets(folder / "sets", chosen.images)
        torch.manual_seed(0)
        torch.save({"state_dict": clip.load(chosen.model, None, "cpu").model.state_dict()}, folder / "weights.pt")
        weights, worst = folder / "weights.pt", 0.0
        named = chosen.model, chosen.device
        by_reference(folder / "sets", weights, KEYS[0], *named)  # both have imported what they need before the clock starts
        by_ours(folder, KEYS[:1], "warm", chosen)
        for number, key in enumerate(KEYS):
            reference, theirs = timed(lambda: by_reference(folder / "sets", weights, key, *named))  # noqa: B023
            ours, mine = timed(lambda: by_ours(folder, (key,), f"out{number}", chosen))  # noqa: B023
            rows.append((key, reference, ours))
            worst = max(worst, abs(theirs - mine[key]))
        assert chosen.device != "cpu" or worst <= 1.01 / (chosen.images // 3), f"the numbers differ by {worst}"
        whole, _ = timed(lambda: by_ours(folder, KEYS, "all", chosen))
    print(f"{chosen.images} images and {CLASSES} classes x {len(TEMPLATES)} templates a task, each task alone.")
    print(f"{chosen.model} on {chosen.device}.")
    print(f"{'seconds':<18} {'reference':^13} {'ours':^15}   ratio of\n{'':18}   wall    cpu     wall    cpu   wall     cpu")
    theirs = Took(sum(row[1].wall for row in rows), sum(row[1].cpu for row in rows))
    for key, reference, ours in [*rows, ("all in one run", theirs, whole)]:
        ratios = f"{reference.wall / ours.wall:4.1f}x {reference.cpu / ours.cpu:6.1f}x"
        print(f"{key:<18} {reference.wall:6.1f} {reference.cpu:6.1f} {ours.wall:8.1f} {ours.cpu:6.1f}   {ratios}")
    print(f"scores differ by at most {worst:.5f}")


if __name__ == "__main__":
    main()
