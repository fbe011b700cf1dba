"""Copies the output of child processes from a file to our log while they run, with a rate limit."""

from __future__ import annotations

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

LINES, SECONDS = 20, 30.0  # at most this many lines per period; further lines are counted
CHUNK = 1 << 20


class SubprocessOutput:
    """Call it periodically: logs the complete lines since the last call, except lines that contain `hushed`, which only the
    file keeps."""

    def __init__(self, path: Path, *, start: int = 0, hushed: str = "\0") -> None:
        self.path, self.hushed = path, hushed
        self._at, self._window, self._told, self._left = start, time.monotonic(), 0, 0

    def __call__(self) -> None:
        if time.monotonic() - self._window > SECONDS:
            self._count()
        for line in self._fresh():
            if not line.strip() or self.hushed in line:
                continue
            if self._told < LINES:
                log.info("%s: %s", self.path.stem, line.rstrip())
                self._told += 1
            else:
                self._left += 1

    def close(self) -> None:
        """Log the rest."""
        self()
        self._count()

    def _fresh(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read(CHUNK)
        end = data.rfind(b"\n") + 1 or (len(data) if len(data) == CHUNK else 0)
        self._at += end
        return data[:end].decode("utf-8", "replace").splitlines()

    def _count(self) -> None:
        if self._left:
            log.info("%s: and %d more lines", self.path.stem, self._left)
        self._window, self._told, self._left = time.monotonic(), 0, 0
