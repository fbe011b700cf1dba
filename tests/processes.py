"""Which processes are still there, found by what stands in their environment."""

from __future__ import annotations

import os
import time
from pathlib import Path


def processes_with(text: str) -> list[str]:
    """Command lines of all processes but this one whose environment holds `text`."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if text.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended while we looked
            continue
    return found


def wait_until_gone(text: str, seconds: float = 20) -> list[str]:
    """The processes that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (left := processes_with(text)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
