"""Run the reference's own evaluation on the sets of `evaluation_sets` and write its metrics to `evaluation.json`.

    python tests/parity/freeze_evaluation.py CHECKOUT_OF_MLFOUNDATIONS_DATACOMP

Run by hand, with `wilds`, `ogb`, `outdated` and `littleutils` on PYTHONPATH. The reference is not changed; what it cannot do
with today's libraries is mended here, each without changing a number: no bf16 autocast on a CPU, `float()` of an array of
one element, the stage list of old webdataset, blank class-name lines (clip-benchmark 1.4 dropped them), no hub.
"""

from __future__ import annotations

import functools
import io
import json
import math
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import evaluation_sets as sets
import torch
from PIL import Image

DATA: dict[str, Any] = {}


def accuracy(output: Any, target: Any, topk: tuple[int, ...] = (1,)) -> list[float]:
    hits = output.topk(max(topk), 1, True, True)[1].t().eq(target.view(1, -1))
    return [float(hits[:k].reshape(-1).float().sum().item()) / len(target) for k in topk]


def build_dataset(dataset_name: str, root: str, transform: Any, **_: Any) -> Any:
    """clip-benchmark 1.4's reader, as the pipeline of five stages and two that the reference cuts and extends."""
    import webdataset as wds

    class Shared(wds.DataPipeline, wds.compat.FluidInterface):  # pyright: ignore
        def compose(self, *stages: Any) -> Shared:
            self.pipeline.extend(stages)
            return self

    def lines(name: str) -> list[str]:
        return [line.strip() for line in (Path(root) / name).read_text("utf-8").splitlines() if line.strip()]

    count = int((Path(root) / "test" / "nshards.txt").read_text())
    shards = wds.SimpleShardList([str(Path(root) / "test" / f"{number}.tar") for number in range(count)])
    data = Shared(shards, lambda source: source, wds.split_by_worker, wds.tarfile_to_samples())
    kinds = ["webp", "png", "jpg", "jpeg"]
    data.decode(wds.autodecode.ImageHandler("pil", extensions=kinds)).to_tuple(kinds, "cls").map_tuple(transform, None)
    data.classes, data.templates = lines("classnames.txt"), lines("zeroshot_classification_templates.txt")
    return data


def load_dataset(name: str, **_: Any) -> Any:
    return DATA[name]


def mend() -> None:
    from clip_benchmark.datasets import builder
    from clip_benchmark.metrics import zeroshot_classification as zsc
    from clip_benchmark.metrics import zeroshot_retrieval as zsr
    from torch.utils import data

    zsc.accuracy = accuracy
    zsc.zero_shot_classifier = functools.partial(zsc.zero_shot_classifier, amp=False)
    zsr.evaluate = functools.partial(zsr.evaluate, amp=False)
    builder.build_dataset = build_dataset

    class InProcess(data.DataLoader[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "num_workers": 0})

    data.DataLoader = InProcess
    stub = types.ModuleType("datasets")
    stub.load_dataset = load_dataset  # pyright: ignore
    sys.modules["datasets"] = stub


def hub_sets() -> None:
    def opened(image: bytes) -> Image.Image:
        return Image.open(io.BytesIO(image))

    for name, seed in ((sets.FLICKR, 21), (sets.COCO, 22)):
        rows = [{"image": opened(image), "caption": captions} for image, captions in sets.captioned(seed, 60)]
        DATA[f"nlphuji/{name.removeprefix('retrieval/')}"] = rows
    images, instances = sets.associations(23, 60)
    DATA["nlphuji/winogavil"] = [
        {**one, "candidate_images": [opened(images[candidate]) for candidate in one["candidates"]]} for one in instances
    ]


def plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or math.isnan(value) else value


def main() -> None:
    from datacomp_core import clip

    clip.register()
    sys.path.insert(0, sys.argv[1])
    mend()
    from eval_utils.main import evaluate_model  # pyright: ignore

    hub_sets()
    found: dict[str, Any] = {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sets.webdatasets(Path(folder))
        for name in sets.CHECKPOINTS:
            path = Path(folder) / f"{name}.pt"
            sets.checkpoint(path, name)
            info = {"scale_config": {"model": sets.MODEL}, "checkpoint": str(path)}
            for key in (*sets.FOLDERS, sets.FLICKR, sets.COCO, sets.WINOGAVIL):
                metrics = evaluate_model(key, info, folder, None, batch_size=64)
                found.setdefault(name, {})[key] = {metric: plain(value) for metric, value in metrics.items()}
    target = Path(__file__).with_name("evaluation.json")
    target.write_text(json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
