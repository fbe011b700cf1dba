"""The training loop: batches in, gradients, an optimizer step, and hooks at fixed points.

The arithmetic of a step is open_clip_train's (gradient accumulation with cached features as in OpenCLIP's README, the logit
scale clamped to ln(100) as in the CLIP paper); a test compares losses, gradients and weights with it, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from datacomp_core.training.arguments import RuntimeOptions, log_every
from datacomp_core.training.components import TrainingComponents
from datacomp_core.training.data import MicroBatchStream
from datacomp_core.training.hooks import Hook, Logged
from datacomp_core.training.rank_context import RankContext, wait_for_all
from datacomp_core.training.spec import TrainSpec

MAX_LOGIT_SCALE = math.log(100)
SCALARS = ("logit_scale", "logit_bias")  # a model's outputs that are not one row per sample


@dataclass
class DeviceMicroBatch:
    """A micro-batch on the device, and its features without gradients where a step has several."""

    images: Any
    texts: Any
    features: dict[str, Any] = field(default_factory=dict[str, Any])


class TrainingLoop:
    """One rank's training, from `steps.step` to the last step of the spec. Hooks are called in their order."""

    def __init__(
        self,
        spec: TrainSpec,
        machine: RuntimeOptions,
        place: RankContext,
        parts: TrainingComponents,
        steps: MicroBatchStream,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.spec, self.machine, self.place = spec, machine, place
        self.parts, self.steps, self.hooks = parts, steps, hooks
        self.done = steps.step
        """Optimizer steps that are done, counted from the start of the run."""
        self._losses: dict[str, Any] = {}
        self._logit_scale: Any = None
        self._began, self._waited, self._counted = time.monotonic(), 0.0, 0

    @property
    def position(self) -> tuple[int, int]:
        """Whole epochs that are done, and optimizer steps of the next one."""
        return divmod(self.done, self.spec.steps_per_epoch)

    def run(self) -> None:
        for hook in self.hooks:
            hook.begin(self)
        with self._compiled():
            while self.done < self.spec.steps:
                self._epoch()
        for hook in self.hooks:
            hook.end(self)

    def _epoch(self) -> None:
        """The steps that are left of the present epoch."""
        parts, held = self.parts, list[DeviceMicroBatch]()
        parts.model.train()
        self._begin_window()
        for images, texts in self.steps:
            parts.set_learning_rate(self.done)
            micro = DeviceMicroBatch(images, texts.to(images.device, non_blocking=True))
            if self.machine.accumulation > 1:
                micro.features = features(parts, micro)
            held.append(micro)
            if len(held) == self.machine.accumulation:
                self._losses, self._logit_scale = backward(parts, held)
                held = list[DeviceMicroBatch]()
                update(parts)
                self._step_done()
        for hook in self.hooks:
            hook.after_epoch(self)
        wait_for_all(self.place)

    def _step_done(self) -> None:
        self.done += 1
        self._counted += 1
        number = (self.done - 1) % self.spec.steps_per_epoch
        if self.place.is_main and (number % log_every(self.spec) == 0 or number + 1 == self.spec.steps_per_epoch):
            logged = self._logged()
            for hook in self.hooks:
                hook.after_logged(self, logged)
            self._begin_window()
        for hook in self.hooks:
            hook.after_step(self)

    def _begin_window(self) -> None:
        self._began, self._waited, self._counted = time.monotonic(), self.steps.waited, 0

    def _logged(self) -> Logged:
        """The last step's numbers, and seconds and rates as means since the last logged step."""
        losses = {name: value.item() for name, value in self._losses.items()}  # waits for the device
        seconds = (time.monotonic() - self._began) / self._counted
        waited = (self.steps.waited - self._waited) / self._counted
        gauges = {"waiting": round(waited / max(seconds, 1e-9), 4)}
        if self.place.kind == "cuda":
            import torch

            gauges["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        return Logged(
            step=self.done - 1,
            losses=losses,
            logit_scale=self._logit_scale.item(),
            learning_rate=self.parts.optimizer.param_groups[0]["lr"],
            samples_per_second=self.spec.recipe.batch_size / max(seconds, 1e-9),
            data_seconds=waited,
            batch_seconds=seconds,
            gauges=gauges,
        )

    @contextmanager
    def _compiled(self) -> Generator[None]:
        """`torch.compile` where it was asked for; with gradient checkpointing its splitting for DDP does not work."""
        if self.machine.compiled == "no":
            yield
            return
        import torch
        import torch._dynamo as dynamo

        splits = not (self.place.is_distributed and self.machine.checkpoints_gradients)
        with dynamo.config.patch(optimize_ddp=splits and dynamo.config.optimize_ddp):  # pyright: ignore
            self.parts.model = torch.compile(self.parts.wrapped)
            yield


def features(parts: TrainingComponents, micro: DeviceMicroBatch) -> dict[str, Any]:
    """Return the features that the loss uses as negatives for other micro-batches, without gradients."""
    import torch

    with torch.no_grad(), parts.autocast():
        made = parts.model(micro.images, micro.texts)
    return {name: value for name, value in made.items() if name not in SCALARS}


def backward(parts: TrainingComponents, held: Sequence[DeviceMicroBatch]) -> tuple[dict[str, Any], Any]:
    """Gradients of one optimizer step, a micro-batch after another; the last one's losses and the logit scale, as tensors.

    With several, each is computed again with gradients, and takes the cached features of the others as negatives.
    """
    import torch

    parts.optimizer.zero_grad()
    losses, logit_scale = dict[str, Any](), None
    for number, micro in enumerate(held):
        with parts.autocast():
            made = parts.model(micro.images, micro.texts)
            logit_scale = made["logit_scale"]
            for name in micro.features:
                around = [other.features[name] for other in held]
                made[name] = torch.cat([*around[:number], made[name], *around[number + 1 :]])
            losses = parts.loss(**made, output_dict=True)
            total: Any = sum(losses.values())
        losses["loss"] = total
        (total if parts.scaler is None else parts.scaler.scale(total)).backward()
    return losses, logit_scale


def update(parts: TrainingComponents) -> None:
    """One optimizer step; then the logit scale is clamped to [0, ln(100)]."""
    import torch

    if parts.scaler is None:
        parts.optimizer.step()
    else:
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
    with torch.no_grad():
        parts.bare.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
