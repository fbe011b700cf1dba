"""Raises early warnings from the learning curve: a run that learns nothing, waits for its data, or stalls. Pure functions of
the rows of the history. A loss that is not finite ends the run at once (see `history`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from datacomp_core.training.spec import TrainSpec

Row = dict[str, float]

WINDOW = 10  # logged steps that are looked at together
COLLAPSE_MARGIN = 0.02  # of ln(batch): a loss this near to it has learnt nothing
STARVED = 0.3  # share of the time spent waiting for data
STALLED_STEPS, STALLED_SECONDS = 20, 600  # no logged step for this multiple of the usual time, and for at least this long
SPIKE = 1.5  # times the best loss so far


class Alarm(NamedTuple):
    """`kind` is its name in the record; `text` says what was seen and what to do."""

    kind: str
    text: str


def collapsed(spec: TrainSpec, losses: Sequence[float]) -> bool:
    """Whether these losses are those of a model that has learnt nothing: ln(batch) is the loss of guessing."""
    return bool(losses) and sum(losses) / len(losses) > math.log(spec.recipe.batch_size) * (1 - COLLAPSE_MARGIN)


def alarms(spec: TrainSpec, rows: Sequence[Row], idle_seconds: float = 0.0) -> list[Alarm]:
    """Return the current alarms of a training; `idle_seconds` is the time since the last row."""
    last = rows[-WINDOW:]
    if not last:
        return []
    found: list[Alarm] = []
    step, losses = int(last[-1]["step"]), [row["loss"] for row in last]
    if len(last) == WINDOW and last[0]["step"] >= 2 * spec.recipe.warmup:
        if collapsed(spec, losses):
            text = f"the loss is {losses[-1]:.2f} at step {step}, about ln(batch): nothing is learnt; look at images and captions"
            found.append(Alarm("collapse", text))
        best = min(row["loss"] for row in rows)
        if min(losses) > SPIKE * best + 0.5:
            found.append(Alarm("divergence", f"the loss rose from {best:.2f} to {losses[-1]:.2f} by step {step}"))
    waiting = sum(row.get("waiting", 0.0) for row in last) / len(last)
    if len(last) == WINDOW and waiting > STARVED:
        text = f"{waiting:.0%} of the time is spent waiting for data: more loader workers, or shards on a faster disk"
        found.append(Alarm("starvation", text))
    if idle_seconds > patience(last):
        found.append(Alarm("stall", f"no step since {idle_seconds:.0f} s, after step {step}"))
    return found


def patience(rows: Sequence[Row]) -> float:
    """Seconds after the last of these rows until a run counts as standing still."""
    return max(STALLED_SECONDS, STALLED_STEPS * _usual(rows[-WINDOW:]))


def _usual(rows: Sequence[Row]) -> float:
    """Seconds between two logged steps, as they were lately."""
    gap = (rows[-1]["step"] - rows[0]["step"]) / max(1, len(rows) - 1)
    return max(1.0, gap) * max(row.get("batch_seconds", 0.0) for row in rows)
