"""Publishes the events of this process's steps to listeners. It does not import Prefect, which takes two seconds: commands on
plain folders use it to show progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from datacomp_core.progress import LogProgress

Phase = Literal["started", "expected", "progress", "reused", "built", "failed"]


@dataclass(frozen=True)
class StepEvent:
    """One event of one step. `line` is for people; `share` is 0..1 where the total is known."""

    kind: str
    name: str
    phase: Phase
    line: str = ""
    share: float | None = None
    seconds: float = 0.0


LISTENERS: list[Callable[[StepEvent], None]] = []


def tell(event: StepEvent) -> None:
    for listener in LISTENERS:
        listener(event)


class EventProgress(LogProgress):
    """Live progress as an event every few seconds."""

    def __init__(self, kind: str, name: str, every: float = 2.0) -> None:
        super().__init__(f"{kind} {name}", every)
        self.kind, self.name = kind, name

    @property
    def share(self) -> float | None:
        return self.done / self.total if self.total else None

    def start(self, total: int, unit: str) -> None:
        super().start(total, unit)
        tell(StepEvent(self.kind, self.name, "progress", self.line(), 0.0 if total else None))

    def show(self) -> None:
        tell(StepEvent(self.kind, self.name, "progress", self.line(), self.share))
