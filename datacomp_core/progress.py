"""How long work tells where it stands. The core calls a `Progress`; who shows it (terminal, Prefect, log) is not its concern."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Protocol

log = logging.getLogger(__name__)


class Progress(Protocol):
    """`start` once, `advance` often from one process; both are cheap."""

    def start(self, total: int, unit: str) -> None:
        """`total` units of work are ahead (0: unknown)."""
        ...

    def advance(self, amount: int = 1, **tally: int) -> None:
        """`amount` more are done; `tally` adds to named counts, by reason."""
        ...

    def note(self, text: str) -> None:
        """How it goes, in a few words for people: takes the place of the note before."""
        ...


class LogProgress:
    """Writes a line to the log at most every `every` seconds: done, total, rate, tally, time left."""

    def __init__(self, what: str, every: float = 5.0) -> None:
        self.what, self.every = what, every
        self.total, self.unit, self.done = 0, "", 0
        self.tally: Counter[str] = Counter()
        self.noted = ""
        self.began = self.told = time.monotonic()

    def start(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.tally.clear()
        self.began = self.told = time.monotonic()

    def advance(self, amount: int = 1, **tally: int) -> None:
        self.done += amount
        self.total = max(self.total, self.done) if self.total else 0  # a total that was stated too low is not a limit
        self.tally.update(tally)
        if time.monotonic() - self.told >= self.every:
            self.told = time.monotonic()
            self.show()

    def note(self, text: str) -> None:
        self.noted = text

    def line(self) -> str:
        spent = max(time.monotonic() - self.began, 1e-9)
        rate = self.done / spent
        text = f"{self.what}: {self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}, {rate:,.0f}/s"
        if self.tally:
            text += " (" + ", ".join(f"{name} {count:,}" for name, count in self.tally.most_common()) + ")"
        if self.total and 0 < self.done < self.total:
            text += f", {(self.total - self.done) / rate:,.0f} s left"
        return f"{text}; {self.noted}" if self.noted else text

    def show(self) -> None:
        log.info("%s", self.line())


class NoProgress:
    """Shows nothing."""

    def start(self, total: int, unit: str) -> None: ...

    def advance(self, amount: int = 1, **tally: int) -> None: ...

    def note(self, text: str) -> None: ...


NO_PROGRESS = NoProgress()
"""The default of every function that takes a `Progress`."""
