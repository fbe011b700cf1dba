"""Translates a recipe for open_clip: the argument list with which `open_clip_train` would run the same training.

The list is the reference's (`train.py` of mlfoundations/datacomp) in its order; where ours differs, `DIFFERENCES` says why.
Our loop gets its numbers from the same functions, and each run keeps the list in `training.json`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.scales import Scale
from datacomp_core.training.spec import TrainSpec

Report = Literal["tensorboard", "wandb"]
Checkpointing = Literal["auto", "on", "off"]

DIFFERENCES = {
    "--precision": "fp32 on a CPU, where amp is neither faster nor the reference's; the scale's own on a GPU",
    "--grad-checkpointing": "left out on a CPU, or when switched off: loss and gradients are bit-equal, only memory differs",
    "--log-every-n-steps": "at least a hundred points a run, so that short runs have a curve; the reference logs every 100",
    "--device": "said, not guessed",
    "--eps": "only where a recipe of ours says it (open_clip guesses it from the model's name)",
    "--wd": "only if our recipe's value differs from open_clip's default of 0.2",
}
DEFAULT_WEIGHT_DECAY = 0.2
BETA1 = 0.9
LOG_EVERY, LOGGED = 100, 100  # the maximum number of steps between two logged steps, and the minimum number of logged steps


class RuntimeOptions(BaseModel):
    """How a training is run: nothing here changes what is learnt beyond rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field(default="cpu", description="cpu or cuda.")
    world_size: int = Field(default=1, ge=1, description="Total number of processes on all nodes.")
    accumulation: int = Field(default=1, ge=1, description="Micro-batches per process and optimizer step.")
    checkpointing: Checkpointing = Field(default="auto", description="Gradient checkpointing; auto: on with CUDA.")
    compiled: Literal["no", "torch.compile"] = Field(default="no", description="torch.compile: equal up to rounding.")
    optimizer: Literal["foreach", "fused"] = Field(default="foreach", description="AdamW's kernels; fused: equal up to rounding.")
    report_to: tuple[Report, ...] = ()

    @property
    def is_cpu(self) -> bool:
        return self.device.startswith("cpu")

    @property
    def memory_words(self) -> str:
        return f"gradient checkpointing {self.checkpointing}, accumulation {self.accumulation}"

    @property
    def checkpoints_gradients(self) -> bool:
        return self.checkpointing == "on" or (self.checkpointing == "auto" and not self.is_cpu)


def precision_of(spec: TrainSpec, machine: RuntimeOptions) -> str:
    """fp32 on a CPU; the recipe's on a GPU."""
    return "fp32" if machine.is_cpu else spec.recipe.precision


def beta2_of(recipe: Scale) -> float:
    """The recipe's, or what open_clip_train takes by the model's name."""
    return recipe.beta2 if recipe.beta2 is not None else 0.98 if _is_vit(recipe) else 0.999


def eps_of(recipe: Scale) -> float:
    """The recipe's, or what open_clip_train takes by the model's name."""
    return recipe.eps if recipe.eps is not None else 1e-6 if _is_vit(recipe) else 1e-8


def _is_vit(recipe: Scale) -> bool:
    return "vit" in recipe.model.lower()


def log_every(spec: TrainSpec) -> int:
    """Optimizer steps from one logged step to the next."""
    return max(1, min(LOG_EVERY, spec.steps // LOGGED))


def world_batch(spec: TrainSpec, machine: RuntimeOptions) -> int:
    """Samples of one process and step. SpecError names the world sizes that divide the batch."""
    return _divided(spec, machine.world_size, 1)


def device_batch(spec: TrainSpec, machine: RuntimeOptions) -> int:
    """Samples of one micro-batch of one process. SpecError names the world sizes that divide the batch."""
    return _divided(spec, machine.world_size, machine.accumulation)


def _divided(spec: TrainSpec, world_size: int, accumulation: int) -> int:
    batch, parts = spec.recipe.batch_size, world_size * accumulation
    if batch % parts == 0:
        return batch // parts
    fit = [n for n in range(1, min(batch, 4096) + 1) if batch % (n * accumulation) == 0]
    near = sorted(sorted(fit, key=lambda n: abs(n - world_size))[:8])
    raise SpecError(
        f"{world_size} processes with accumulation {accumulation} do not divide the batch of {batch} of scale "
        f"{spec.recipe.name!r}: use {', '.join(map(str, near)) or 'less accumulation'} processes."
    )


def arguments(spec: TrainSpec, machine: RuntimeOptions, *, data: str, logs: str, name: str, num_sources: int = 1) -> list[str]:
    """The argument list. `data` are the shards as open_clip_train names them."""
    recipe = spec.recipe
    given = ["--save-frequency", "0", "--ddp-static-graph", "--local-loss", "--gather-with-grad"]
    if machine.checkpoints_gradients:
        given += ["--grad-checkpointing"]
    given += ["--train-data", data]
    given += ["--train-num-samples", f"{recipe.train_num_samples // recipe.num_checkpoints}"]
    given += ["--warmup", f"{recipe.warmup}", "--dataset-type", "webdataset"]
    given += ["--precision", precision_of(spec, machine)]
    given += ["--workers", f"{recipe.loader_workers}", "--model", recipe.model]
    given += ["--batch-size", f"{device_batch(spec, machine)}", "--epochs", f"{recipe.num_checkpoints}"]
    given += ["--lr", f"{recipe.learning_rate}", "--logs", logs, "--name", name, "--seed", f"{spec.seed}"]
    given += ["--accum-freq", f"{machine.accumulation}", "--log-every-n-steps", f"{log_every(spec)}"]
    given += ["--save-most-recent", "--resume", "latest", "--dataset-resampled"]
    if machine.report_to:
        given += ["--report-to", ",".join(machine.report_to)]
        if "wandb" in machine.report_to:
            given += ["--wandb-project-name", "datacomp"]
    if recipe.beta2 is not None:
        given += ["--beta2", f"{recipe.beta2}"]
    if spec.data_weights:
        given += ["--train-data-upsampling-factors", _weights(spec, num_sources)]
    return given + _ours(spec, machine)


def _ours(spec: TrainSpec, machine: RuntimeOptions) -> list[str]:
    recipe = spec.recipe
    given = ["--device", machine.device]
    if recipe.eps is not None:
        given += ["--eps", f"{recipe.eps}"]
    if recipe.weight_decay != DEFAULT_WEIGHT_DECAY:
        given += ["--wd", f"{recipe.weight_decay}"]
    if machine.compiled == "torch.compile":
        given += ["--torchcompile"]
    return given


def _weights(spec: TrainSpec, num_sources: int) -> str:
    if len(spec.data_weights) != num_sources:
        raise SpecError(f"{len(spec.data_weights)} data weights for {num_sources} shard sets: give one for each, or none.")
    return "::".join(f"{weight:g}" for weight in spec.data_weights)
