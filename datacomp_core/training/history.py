"""The learning curve: one JSON line a logged step, through the writer that open_clip_train already calls.

It also is the watchman: a loss that is no number ends the run at once, naming the step. Samples that could not be read are
kept the same way, a file a rank, so that a resumed run counts each once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datacomp_core.errors import DatacompError
from datacomp_core.training.job import UNREADABLE

NAMES = {
    "train/loss": "loss",
    "train/scale": "logit_scale",
    "train/lr": "learning_rate",
    "train/samples_per_second": "samples_per_second",
    "train/data_time": "data_seconds",
    "train/batch_time": "batch_seconds",
}
LAST = "train/loss"  # what open_clip_train tells last of a step


class History:
    """Looks like a TensorBoard writer to open_clip_train; passes on to a real one if there is one."""

    def __init__(self, path: Path, first_step: int, gauges: Callable[[], dict[str, float]], onward: Any = None) -> None:
        """`gauges` is asked once a row. What an interrupted run wrote at or after `first_step` is written again."""
        self.onward, self.gauges = onward, gauges
        keep_before(path, first_step)
        self._file = path.open("a", buffering=1)
        self._row: dict[str, float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if self.onward is not None:
            self.onward.add_scalar(name, value, step)
        self._row["step"] = step
        if name in NAMES:
            self._row[NAMES[name]] = float(value)
        if name == LAST:
            if not math.isfinite(value):
                raise DatacompError(
                    f"The loss became {value} at step {step}: the training diverged. Lower the learning rate or lengthen the "
                    "warm-up of your custom recipe, or look for broken images among the shards."
                )
            self._write(step)

    def _write(self, step: int) -> None:
        own = self.gauges()
        self._file.write(json.dumps({**self._row, **own}) + "\n")
        self._row = {}
        if self.onward is not None:
            for name, value in own.items():
                self.onward.add_scalar(f"machine/{name}", value, step)


class Unreadable:
    """The samples that one rank could not read: a line a micro-batch that had some, with their names."""

    def __init__(self, folder: Path, rank: int, first_step: int) -> None:
        self.path = folder / f"{UNREADABLE}{rank}.jsonl"
        keep_before(self.path, first_step)

    def add(self, step: int, names: Sequence[str]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "names": list(names)}) + "\n")


def forget_ranks_beyond(folder: Path, world_size: int, step: int) -> None:
    """Drop what ranks that are no more wrote at or after `step`: the others draw those samples again."""
    for path in folder.glob(f"{UNREADABLE}*.jsonl"):
        if int(path.stem.removeprefix(UNREADABLE)) >= world_size:
            keep_before(path, step)


def unreadable(folder: Path) -> list[str]:
    """What all ranks could not read, each time it was drawn."""
    files = sorted(folder.glob(f"{UNREADABLE}*.jsonl"))
    return [name for path in files for row in read_history(path) for name in row["names"]]


def keep_before(path: Path, step: int) -> None:
    """Drop what an interrupted run wrote at or after `step`."""
    rows = read_history(path)
    if path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < step))


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a history file; a last line cut off by a crash is none."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
