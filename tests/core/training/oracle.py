"""open_clip_train as it is, and our loop, on the same batches: run as processes of their own by `test_training_oracle.py`.

Of open_clip_train only the data source is replaced, and on several CPU ranks DDP's `device_ids`, which DDP refuses there. What is
compared is seen through torch's own global hooks: every loss, every gradient, every group and learning rate, every weight.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from training_world import recipe

from datacomp_core import clip
from datacomp_core.training.arguments import RuntimeOptions, arguments
from datacomp_core.training.components import build
from datacomp_core.training.loop import TrainingLoop
from datacomp_core.training.rank_context import RankContext
from datacomp_core.training.spec import TrainSpec

SIDES = {"ViT-B-32": (32, 64), "ViT-B-16": (16, 48), "ViT-L-14": (14, 42)}
VOCABULARY, CONTEXT = 400, 12
GROUP = ("lr", "weight_decay", "betas", "eps", "amsgrad")


class Case(NamedTuple):
    model: str
    accumulation: int
    checkpointing: str
    precision: str = "fp32"


def write_models(folder: Path) -> None:
    """The towers of the scales' models, with their patches, and few and narrow layers."""
    folder.mkdir(exist_ok=True)
    for name, (patch, side) in SIDES.items():
        vision = {"image_size": side, "layers": 2, "width": 64, "patch_size": patch, "head_width": 32}
        text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 48, "heads": 2, "layers": 2}
        (folder / f"{name}-reduced.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))


class Seen:
    """What one training did, in the order in which it did it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tensors: list[torch.Tensor] = []
        self.groups: list[Any] = []

    def __enter__(self) -> Seen:
        def loss(module: Any, _given: Any, made: Any) -> None:
            if isinstance(module, open_clip.ClipLoss):
                self.losses.append(made["contrastive_loss"].item())

        def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            self.groups.append([[group[key] for key in GROUP] + [len(group["params"])] for group in optimizer.param_groups])
            self.tensors += [weight.grad.clone() for group in optimizer.param_groups for weight in group["params"]]

        def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            self.tensors += [weight.detach().clone() for group in optimizer.param_groups for weight in group["params"]]

        self.hooks = [register_module_forward_hook(loss)]
        self.hooks += [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def require_equal(self, other: Seen, part: Literal["all", "the end"] = "all") -> None:
        """The same losses and tensors bit for bit, or those of the end. A scaler leaves out steps whose gradients overflow."""
        for name in ("losses", "groups", "tensors"):
            mine, theirs = getattr(self, name), getattr(other, name)
            theirs = theirs[-len(mine) :] if part == "the end" else theirs
            assert len(mine) == len(theirs) > 0, (name, len(mine), len(theirs))
            same = (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(mine, theirs, strict=True))
            assert all(same), name


class Batches:
    """The micro-batches of all epochs, for both loops: random pixels and tokens, other ones on each rank."""

    def __init__(self, spec: TrainSpec, machine: RuntimeOptions, side: int, context: int, rank: int) -> None:
        self.num_batches = spec.steps_per_epoch * machine.accumulation
        self.num_samples = spec.steps_per_epoch * spec.recipe.batch_size
        self.accumulation, self.next, self.waited = machine.accumulation, 0, 0.0
        size = spec.recipe.batch_size // machine.world_size // machine.accumulation
        numbers = torch.Generator().manual_seed(7 + rank)
        self.made = [
            (
                torch.randn(size, 3, side, side, generator=numbers),
                torch.randint(1, VOCABULARY, (size, context), generator=numbers),
            )
            for _ in range(self.num_batches * spec.recipe.num_checkpoints)
        ]

    @property
    def step(self) -> int:
        return self.next // self.accumulation

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self.num_batches):
            self.next += 1
            yield self.made[self.next - 1]


class Data:
    """What open_clip_train calls a DataInfo. It keeps a copy of the checkpoint of the first epoch."""

    def __init__(self, batches: Batches, checkpoints: Path) -> None:
        self.dataloader, self.checkpoints = batches, checkpoints

    def set_epoch(self, epoch: int) -> None:
        if epoch == 1 and int(os.environ.get("RANK", "0")) == 0:
            shutil.copy(self.checkpoints / "epoch_latest.pt", self.checkpoints / "first.pt")


class OnCpu(DistributedDataParallel):
    def __init__(self, module: Any, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


def theirs(spec: TrainSpec, machine: RuntimeOptions, case: Case, batches: Batches, out: Path) -> tuple[Seen, Path]:
    import open_clip_train.main as trainer

    checkpoints = out / "plain" / "checkpoints"
    trainer.get_data = lambda *_args, **_named: {"train": Data(batches, checkpoints)}
    torch.nn.parallel.DistributedDataParallel = OnCpu
    given = arguments(spec, machine, data="x", logs=str(out), name="plain")
    given[given.index("--precision") + 1] = case.precision
    with Seen() as seen:
        assert trainer.main(given) is None
    torch.nn.parallel.DistributedDataParallel = DistributedDataParallel
    if machine.world_size > 1:
        torch.distributed.barrier()
    return seen, checkpoints


def ours(spec: TrainSpec, machine: RuntimeOptions, case: Case, batches: Batches, saved: Path | None = None) -> tuple[Seen, Any]:
    from open_clip_train.precision import get_autocast

    place = RankContext("cpu", int(os.environ.get("RANK", "0")), machine.world_size)
    parts = build(spec, machine, place)
    if case.precision != "fp32":  # which our recipes take on a GPU only
        parts.autocast = get_autocast(case.precision, device_type="cpu")
        parts.scaler = torch.amp.GradScaler(device="cpu") if case.precision == "amp" else None
    if saved is not None:
        parts.load(torch.load(saved, weights_only=True), machine)
        batches.next = batches.num_batches
    with Seen() as seen:
        TrainingLoop(spec, machine, place, parts, batches).run()  # pyright: ignore[reportArgumentType]
    return seen, parts


def compare(case: Case, world_size: int, out: Path) -> None:
    """AssertionError unless both trainings are equal, from the start and from open_clip_train's checkpoint of the first epoch."""
    machine = RuntimeOptions(world_size=world_size, accumulation=case.accumulation, checkpointing=case.checkpointing)
    model = f"{case.model}-reduced" if case.model in SIDES else case.model
    spec = TrainSpec(recipe=recipe(model=model, beta2=None, eps=None, train_num_samples=32, warmup=1), seed=3)
    known: dict[str, Any] = open_clip.get_model_config(model) or {}
    side, context = known["vision_cfg"]["image_size"], known["text_cfg"]["context_length"]
    rank = int(os.environ.get("RANK", "0"))
    plain, checkpoints = theirs(spec, machine, case, Batches(spec, machine, side, context, rank), out)
    mine, parts = ours(spec, machine, case, Batches(spec, machine, side, context, rank))
    mine.require_equal(plain)
    require_saved(parts, checkpoints, rank)
    resumed, parts = ours(spec, machine, case, Batches(spec, machine, side, context, rank), checkpoints / "first.pt")
    resumed.require_equal(plain, "the end")
    require_saved(parts, checkpoints, rank)
    if world_size > 1:
        torch.distributed.destroy_process_group()


def require_saved(parts: Any, checkpoints: Path, rank: int) -> None:
    """Names and values of what open_clip_train saved, with all buffers: its main rank's."""
    if rank == 0:
        mine, saved = parts.state()["state_dict"], torch.load(checkpoints / "epoch_latest.pt", weights_only=True)["state_dict"]
        assert mine.keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in mine.items())


def main(cases: str, ports: str, world_size: str, out: str) -> None:
    clip.register()
    open_clip.add_model_config(Path(out) / "models")
    torch.set_num_threads(1)
    for number, (case, port) in enumerate(zip(json.loads(cases), json.loads(ports), strict=True)):
        os.environ["MASTER_PORT"] = str(port)  # each training makes its process group anew
        folder = Path(out) / str(number)
        folder.mkdir(exist_ok=True)
        compare(Case(*case), int(world_size), folder)
        sys.stdout.write(f"EQUAL {case}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
