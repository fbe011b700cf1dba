"""Saves checkpoints of a run in open_clip's form, to resume from and to keep. A checkpoint to resume from has two more keys
than open_clip's: `steps`, the finished optimizer steps of the epoch, and `hooks`, their states. It is written between two
steps, when weights, optimizer and scaler do not change.
"""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacomp_core.errors import DatacompError
from datacomp_core.training.hooks import Hook
from datacomp_core.training.job import LATEST, PREVIOUS

if TYPE_CHECKING:
    from datacomp_core.training.loop import TrainingLoop

log = logging.getLogger(__name__)


class Checkpoints(Hook):
    """Writes `epoch_latest.pt` at the end of every epoch and, within one, at least every `seconds`."""

    def __init__(self, folder: Path, name: str, seconds: float) -> None:
        self.folder, self.name_of_run, self.seconds = folder, name, seconds
        self._saved = time.monotonic()

    def after_step(self, loop: TrainingLoop) -> None:
        within = loop.position[1] > 0
        if within and time.monotonic() - self._saved >= self.seconds:
            self.save(loop)

    def after_epoch(self, loop: TrainingLoop) -> None:
        self.save(loop)

    def save(self, loop: TrainingLoop) -> None:
        """Replace the newest checkpoint; the one before stays until this one is whole."""
        epoch, steps = loop.position
        if not math.isfinite(float(loop.parts.bare.logit_scale)):
            raise DatacompError(
                f"The weights are not finite after step {steps} of epoch {epoch}: the training diverged. "
                "Lower the learning rate of a custom recipe, or check the data."
            )
        state = {"epoch": epoch, "steps": steps, "name": self.name_of_run, **loop.parts.state()}
        if states := {hook.name: hook.state() for hook in loop.hooks if hook.state()}:
            state["hooks"] = states
        write_latest(state, self.folder)
        self._saved = time.monotonic()


def write_latest(state: dict[str, Any], folder: Path) -> None:
    import torch

    temporary, latest, previous = folder / "tmp.pt", folder / LATEST, folder / PREVIOUS
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if latest.exists():
        previous.unlink(missing_ok=True)
        os.link(latest, previous)
    os.replace(temporary, latest)


def read_latest(folder: Path) -> dict[str, Any] | None:
    """Return the checkpoint to resume from; None at the start. `steps` and `hooks` are missing from open_clip_train's own."""
    latest = folder / LATEST
    if not latest.exists():
        return None
    import torch

    return torch.load(latest, map_location="cpu", weights_only=True)


def write_final(latest: Path, folder: Path, name: str) -> None:
    """`checkpoint.pt` and `checkpoint.safetensors` from a training checkpoint; equal weights give equal bytes."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(latest, map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): value.contiguous() for key, value in state["state_dict"].items()}
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": state["epoch"], "name": name, "state_dict": weights}, folder / "checkpoint.pt")
    save_file(weights, folder / "checkpoint.safetensors")
