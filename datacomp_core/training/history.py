"""Writes the learning curve: one JSON line per logged step. Unreadable samples are recorded in the same way, one file per
rank, so that a resumed run counts each once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacomp_core.training.hooks import Hook, Logged
from datacomp_core.training.job import UNREADABLE

if TYPE_CHECKING:
    from datacomp_core.training.loop import TrainingLoop


class History(Hook):
    """Appends one row per logged step. Rows of an interrupted run at or after the step where it resumes are written again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, loop: TrainingLoop) -> None:
        keep_before(self.path, loop.done)

    def after_logged(self, loop: TrainingLoop, logged: Logged) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row_of(logged)) + "\n")


def row_of(logged: Logged) -> dict[str, float]:
    """A step as a line of the history: numbers by their names."""
    return {
        "step": logged.step,
        "data_seconds": logged.data_seconds,
        "batch_seconds": logged.batch_seconds,
        "samples_per_second": logged.samples_per_second,
        "logit_scale": logged.logit_scale,
        "learning_rate": logged.learning_rate,
        "loss": logged.losses["loss"],
        **logged.gauges,
    }


class Unreadable:
    """The samples that one rank could not read: a line a micro-batch that had some, with their names."""

    def __init__(self, folder: Path, rank: int, first_step: int) -> None:
        self.path = folder / f"{UNREADABLE}{rank}.jsonl"
        keep_before(self.path, first_step)

    def add(self, step: int, names: Sequence[str]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "names": list(names)}) + "\n")


def forget_ranks_beyond(folder: Path, world_size: int, step: int) -> None:
    """Drop what ranks that no longer exist wrote at or after `step`: the others draw those samples again."""
    for path in folder.glob(f"{UNREADABLE}*.jsonl"):
        if int(path.stem.removeprefix(UNREADABLE)) >= world_size:
            keep_before(path, step)


def unreadable(folder: Path) -> list[str]:
    """Return the samples that any rank could not read, once for each time they were drawn."""
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
