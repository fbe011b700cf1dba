"""Which processes are still there, found by what stands in their environment."""

from __future__ import annotations

import os
import time
from pathlib import Path


def processes_with(text: str) -> list[str]:
    """Command lines of all processes but this one whose environment contains `text`."""
    return list(_found(text).values())


def pids_with(text: str) -> list[int]:
    """The ids of the same processes."""
    return list(_found(text))


def _found(text: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if text.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended while we looked
            continue
    return found


def wait_until_gone(text: str, seconds: float = 20) -> list[str]:
    """The processes that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (left := processes_with(text)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
