"""How fast is training? Ours against the same model on data that costs nothing (the ceiling), and against plain open_clip_train.

    python benchmarks/train.py --scale tiny --steps 40
    python benchmarks/train.py --scale small --batch 1024 --steps 60 --loader-workers 16     (on a GPU)

Makes shards of random JPEGs and runs each contender in turn, `--rounds` times, each as a process of its own on one device;
the rate is taken from open_clip's own log, without the first tenth of the steps. "start-up" is everything but the steps.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CEILING = """
import sys, types
sys.modules["wandb"] = None
from datacomp_core import clip
clip.register()
import torch, open_clip_train.main as trainer
argv, steps = sys.argv[2:], int(sys.argv[1])
class Same:
    num_batches, num_samples = steps, 1 << 30
    def __iter__(self):
        return iter([self.batch] * steps)
def get_data(args, preprocess, epoch=0, tokenizer=None):
    size = preprocess[0].transforms[0].size
    data = Same()
    texts = tokenizer(["a photo of a thing"] * args.batch_size)
    data.batch = torch.rand(args.batch_size, 3, *size).to(args.device), texts.to(args.device)
    return {"train": types.SimpleNamespace(dataloader=data, set_epoch=lambda epoch: None)}
trainer.get_data = get_data
sys.exit(trainer.main(argv))
"""

PLAIN = """
import sys
from datacomp_core import clip
if __name__ == "__main__":
    clip.register()
    from open_clip_train.main import main
    sys.exit(main(sys.argv[2:]))
"""


def make_shards(folder: Path, samples: int, shards: int, side: int) -> None:
    from PIL import Image

    from datacomp_core.shards import ShardWriter, shard_name, write_index
    from datacomp_core.store import Folder

    random = np.random.default_rng(0)
    for number in range(shards):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, shard_name(number))
        for at in range(samples // shards):
            image, uid = io.BytesIO(), f"{number * samples + at:032x}"
            coarse = Image.fromarray(random.integers(0, 256, (side // 6, side // 8, 3), np.uint8))
            coarse.resize((side, side * 3 // 4)).save(image, "JPEG", quality=90)
            writer.add(uid, uid, {"jpg": image.getvalue(), "txt": f"a caption with the number {at}".encode()})
        Folder(folder).write(f"{shard_name(number)}.tar", buffer.getvalue())
        write_index(Folder(folder), shard_name(number), writer.finish())


def measure(contender: str, given: argparse.Namespace, shards: Path, out: Path) -> tuple[float, float]:
    """Samples/s of the steps, and the seconds that were no steps."""
    from datacomp_core.artifacts import ShardSet
    from datacomp_core.scales import SCALES, Scale
    from datacomp_core.store import Folder
    from datacomp_core.training.arguments import RuntimeOptions, arguments
    from datacomp_core.training.job import JOB, RankJob
    from datacomp_core.training.preflight import preflight
    from datacomp_core.training.spec import TrainSpec

    row = SCALES[given.scale].model_dump() | {"name": "custom", "num_checkpoints": 1, "loader_workers": 1, "warmup": 5}
    row["batch_size"] = given.batch or row["batch_size"]
    row["train_num_samples"] = row["batch_size"] * given.steps
    spec = TrainSpec(recipe=Scale.model_validate(row))
    machine = RuntimeOptions(device=given.device, checkpointing=given.checkpointing)
    pattern = f"{shards}/{{00000000..{given.shards - 1:08d}}}.tar"
    argv = arguments(spec, machine, data=pattern, logs=str(out), name="run")
    argv[argv.index("--workers") + 1] = str(given.loader_workers)
    environment = {**os.environ, "WORLD_SIZE": "1", "OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "passive"}
    if contender == "ours":
        made = ShardSet(num_samples=given.samples, num_unique=given.samples, num_shards=given.shards, fingerprint="benchmark")
        source, _ = preflight(made, Folder(shards), out, 1.0)
        (out / "run" / "checkpoints").mkdir(parents=True)
        job = RankJob(
            spec=spec, machine=machine, sources=(source,), folder=str(out), name="run", loader_workers=given.loader_workers,
            cache_bytes=1 << 30,
        )  # fmt: skip
        (out / JOB).write_text(job.model_dump_json())
        command = [sys.executable, "-m", "datacomp_core.training.worker", str(out)]
        environment |= {"MALLOC_TRIM_THRESHOLD_": f"{4 << 30}", "MALLOC_MMAP_THRESHOLD_": f"{4 << 30}"}
    else:
        script = {"ceiling": CEILING, "plain open_clip_train": PLAIN}[contender]
        command = [sys.executable, "-c", script, str(given.steps), *argv]
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    spent = time.monotonic() - began
    found = re.findall(r"\[\s*(\d+)/.*Batch \(t\): ([\d.]+)", (out / "run" / "out.log").read_text())
    times = np.array([float(seconds) for _, seconds in found])
    ends = np.array([int(samples) for samples, _ in found])
    steps = np.diff(ends, prepend=0) / spec.recipe.batch_size
    kept = ends > ends[-1] / 10
    return float(steps[kept].sum() * spec.recipe.batch_size / (times * steps)[kept].sum()), spent - float((times * steps).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--batch", type=int, default=0, help="samples a step on the one device; 0: the scale's batch")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--side", type=int, default=0, help="width of the images; 0: 64 for tiny, else 512")
    parser.add_argument("--device", default="")
    parser.add_argument("--checkpointing", default="auto", choices=["auto", "on", "off"])
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    from datacomp_core.device import default_device

    given.device = given.device or default_device()
    contenders = ("ceiling", "ours", "plain open_clip_train")
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as scratch:
        shards = Path(scratch) / "shards"
        make_shards(shards, given.samples, given.shards, given.side or (64 if given.scale == "tiny" else 512))
        for number in range(given.rounds):
            for name in contenders:
                out = Path(scratch) / f"{number}-{contenders.index(name)}"
                out.mkdir()
                rates[name].append(measure(name, given, shards, out))
    print(json.dumps(vars(given)))
    print(f"{'':24}{'samples/s':>12}{'of ceiling':>12}{'start-up s':>12}")
    ceiling = statistics.median(rate for rate, _ in rates["ceiling"])
    for name in contenders:
        rate, idle = (statistics.median(column) for column in zip(*rates[name], strict=True))
        print(f"{name:24}{rate:12.0f}{rate / ceiling:12.1%}{idle:12.1f}")


if __name__ == "__main__":
    main()
