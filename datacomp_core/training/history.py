"""The learning curve: one JSON line a logged step, through the writer that open_clip_train already calls.

It also is the watchman: a loss that is no number ends the run at once, naming the step.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from datacomp_core.errors import DatacompError

NAMES = {
    "train/loss": "loss",
    "train/scale": "logit_scale",
    "train/lr": "learning_rate",
    "train/samples_per_second": "samples_per_second",
    "train/data_time": "data_seconds",
    "train/batch_time": "batch_seconds",
}


class History:
    """Looks like a TensorBoard writer to open_clip_train; passes on to a real one if there is one."""

    def __init__(self, path: Path, first_step: int, onward: Any = None) -> None:
        """What an interrupted run wrote at or after `first_step` is dropped: it will be written again."""
        self.onward = onward
        kept = [row for row in read_history(path) if row["step"] < first_step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1)
        self._row: dict[str, float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if self.onward is not None:
            self.onward.add_scalar(name, value, step)
        if self._row and self._row["step"] != step:
            self.flush()
        self._row["step"] = step
        if name in NAMES:
            self._row[NAMES[name]] = float(value)
        if name == "train/loss" and not math.isfinite(value):
            raise DatacompError(
                f"The loss became {value} at step {step}: the training diverged. Lower the learning rate or lengthen the "
                "warm-up of your custom recipe, or look for broken images among the shards."
            )

    def flush(self) -> None:
        if self._row:
            self._file.write(json.dumps(self._row) + "\n")
            self._row = {}


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history file; a last line cut off by a crash is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
