"""open_clip_train as it is, on the batches that ours should see: run as a process of its own by the tests.

Only its data source is replaced, by a list of tensors made through open_clip's own training transform. Takes the job file
of one of our runs; leaves the losses and the final weights in a folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop

from datacomp_core import clip
from datacomp_core.training.arguments import arguments
from datacomp_core.training.job import RankJob
from datacomp_core.training.sample_order import SampleOrder
from datacomp_core.training.samples import CROP_NUMBERS, SampleReader, crop_box


class Batches(list):
    num_batches = num_samples = 0


def batches(job: RankJob, transform: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    spec, sizes = job.spec, [count for source in job.sources for _, count in source.shards]
    order = SampleOrder(spec.seed, spec.recipe.batch_size, np.array(sizes))
    reader = SampleReader(job.sources, lambda texts: tokenizer(texts).numpy(), cache="unused", cache_bytes=0)
    made = []
    for step in range(spec.steps):
        images, tokens = [], []
        numbers = order.crops(step, 0, spec.recipe.batch_size, CROP_NUMBERS)
        for draw, shard, row in zip(numbers, *order.batch(step), strict=True):
            sample = reader(int(shard), int(row))
            left, top, right, bottom = crop_box(sample.image.width, sample.image.height, draw)
            RandomResizedCrop.get_params = staticmethod(lambda *_, at=(top, left, bottom - top, right - left): at)
            images.append(transform(sample.image))
            tokens.append(torch.as_tensor(sample.tokens))
        made.append((torch.stack(images), torch.stack(tokens)))
    return made


class Data:
    def __init__(self, made: list[Any], per_epoch: int, samples: int) -> None:
        self.made, self.per_epoch = made, per_epoch
        self.dataloader = Batches()
        self.dataloader.num_batches, self.dataloader.num_samples = per_epoch, samples

    def set_epoch(self, epoch: int) -> None:
        self.dataloader[:] = self.made[epoch * self.per_epoch : (epoch + 1) * self.per_epoch]


def main(job_file: str, out: str) -> None:
    import open_clip_train.main as trainer

    job = RankJob.model_validate_json(Path(job_file).read_bytes())
    spec = job.spec
    clip.register()

    def get_data(args: Any, preprocess: Any, epoch: int = 0, tokenizer: Any = None) -> dict[str, Any]:
        made = batches(job, preprocess[0], tokenizer)
        return {"train": Data(made, spec.steps_per_epoch, spec.steps_per_epoch * spec.recipe.batch_size)}

    losses: list[float] = []
    theirs = trainer.create_loss

    def create_loss(args: Any) -> Any:
        loss = theirs(args)
        loss.register_forward_hook(lambda _module, _inputs, given: losses.append(float(given["contrastive_loss"])))
        return loss

    trainer.get_data, trainer.create_loss = get_data, create_loss
    assert trainer.main(arguments(spec, job.machine, data="x", logs=out, name="plain")) is None
    (Path(out) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
