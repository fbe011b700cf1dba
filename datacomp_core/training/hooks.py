"""Hooks of a training: small classes that the loop calls at fixed points, each with its own state.

The order in a run: `restore` (from a checkpoint), `begin`, then `after_logged`, `after_step` and `after_epoch`, and `end`. A hook
that raises ends the run. `after_logged` is called on the main rank only.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datacomp_core.errors import DatacompError
from datacomp_core.training.job import RankJob

if TYPE_CHECKING:
    from datacomp_core.training.loop import TrainingLoop

log = logging.getLogger(__name__)

PROJECT = "datacomp"  # in W&B


class Logged(NamedTuple):
    """A logged step: losses by open_clip's names (`loss` is their sum), seconds a step, and gauges of the machine."""

    step: int
    losses: dict[str, float]
    logit_scale: float
    learning_rate: float
    samples_per_second: float
    data_seconds: float
    batch_seconds: float
    gauges: dict[str, float]

    def scalars(self, world_size: int) -> dict[str, float]:
        """Under the names that open_clip_train gives them in TensorBoard and W&B, and `machine/` for the gauges."""
        named = {
            "train/data_time": self.data_seconds,
            "train/batch_time": self.batch_seconds,
            "train/samples_per_second": self.samples_per_second,
            "train/samples_per_second_per_gpu": self.samples_per_second / world_size,
            "train/scale": self.logit_scale,
            "train/lr": self.learning_rate,
        }
        named |= {f"train/{name}": value for name, value in self.losses.items()}
        return named | {f"machine/{name}": value for name, value in self.gauges.items()}


class Hook:
    """Does nothing at every point. `name` is the key of its state in a checkpoint."""

    name = ""

    def begin(self, loop: TrainingLoop) -> None: ...

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None: ...

    def after_step(self, loop: TrainingLoop) -> None: ...

    def after_epoch(self, loop: TrainingLoop) -> None: ...

    def end(self, loop: TrainingLoop) -> None: ...

    def state(self) -> dict[str, Any]:
        """Return the plain values that the next attempt needs; empty if it needs none."""
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


class StopIfDiverged(Hook):
    """Ends the run at the first logged loss that is not a finite number."""

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None:
        loss = logged.losses["loss"]
        if not math.isfinite(loss):
            raise DatacompError(
                f"The loss became {loss} at step {logged.step}: the training diverged. Lower the learning rate or lengthen the "
                "warm-up of your custom recipe, or look for broken images among the shards."
            )


class TextLog(Hook):
    """A line a logged step in the run's `out.log`, in the form of open_clip_train's."""

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None:
        epoch, step = divmod(logged.step, loop.spec.steps_per_epoch)
        batch, world = loop.spec.recipe.batch_size, loop.place.world_size
        seen, of = (step + 1) * batch, loop.spec.steps_per_epoch * batch
        rate = logged.samples_per_second
        losses = " ".join(f"{name.capitalize()}: {value:#.5g}" for name, value in logged.losses.items())
        log.info(
            f"Train Epoch: {epoch} [{seen:>{len(str(of))}}/{of} ({100 * seen / of:.0f}%)] Data (t): {logged.data_seconds:.3f} "
            f"Batch (t): {logged.batch_seconds:.3f}, {rate:#g}/s, {rate / world:#g}/s/gpu LR: {logged.learning_rate:5f} "
            f"Logit Scale: {logged.logit_scale:.3f} {losses}"
        )


class TensorBoard(Hook):
    """Event files in `folder`. What an interrupted run wrote after its last checkpoint is purged by TensorBoard itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def begin(self, loop: TrainingLoop) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=loop.done or None)

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None:
        for name, value in logged.scalars(loop.place.world_size).items():
            self._writer.add_scalar(name, value, logged.step)

    def end(self, loop: TrainingLoop) -> None:
        self._writer.close()


class WandB(Hook):
    """One run in Weights & Biases, the same after a crash, also on another machine: its id is kept in the checkpoint.

    Where W&B refuses or fails, that is reported once and the training continues.
    """

    name = "wandb"

    def __init__(self, job: RankJob) -> None:
        self.id = f"{job.spec.label()}-{hashlib.sha256(job.folder.encode()).hexdigest()[:8]}"
        self.config = {"spec": job.spec.model_dump(mode="json"), "machine": job.machine.model_dump(mode="json")}
        self._run: Any = None

    def state(self) -> dict[str, Any]:
        return {"id": self.id}

    def restore(self, state: dict[str, Any]) -> None:
        self.id = str(state["id"])

    def begin(self, loop: TrainingLoop) -> None:
        import wandb

        try:
            self._run = wandb.init(project=PROJECT, name=self.id, id=self.id, resume="allow", config=self.config)
        except (wandb.Error, OSError) as problem:
            self._give_up(problem)

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None:
        self._send(lambda run: run.log({**logged.scalars(loop.place.world_size), "step": logged.step}, step=logged.step))

    def end(self, loop: TrainingLoop) -> None:
        self._send(lambda run: run.finish())

    def _send(self, report: Callable[[Any], None]) -> None:
        import wandb

        try:
            if self._run is not None:
                report(self._run)
        except (wandb.Error, OSError) as problem:
            self._give_up(problem)

    def _give_up(self, problem: Exception) -> None:
        """A training does not end because its report cannot be sent; `history.jsonl` has the same values."""
        self._run = None
        first = next(iter(str(problem).splitlines()), "") or type(problem).__name__
        log.warning(
            "W&B does not accept reports of this run (%s). The training continues; WANDB_MODE=offline keeps them here.", first
        )
