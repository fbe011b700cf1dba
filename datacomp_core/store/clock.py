"""Reads the clock of a store, which all machines share: the age of a file, independent of the machines' clocks."""

from __future__ import annotations

import math
import uuid
from datetime import datetime

from datacomp_core.store.folder import Folder

PROBE = "_clock-"


def seconds_of(time: str) -> float:
    """A time of `Folder.detail`, in seconds since 1970; infinity if the store does not say."""
    try:
        return int(time) / 1e9 if time.isdecimal() else datetime.fromisoformat(time).timestamp()
    except ValueError:
        return math.inf


def age(home: Folder, name: str) -> float | None:
    """Seconds since a file was written, by the clock of the store; None if it is gone, or if the store tells no times."""
    written = home.detail(name)
    if written is None or math.isinf(seconds_of(written[1])):
        return None
    probe = f"{PROBE}{uuid.uuid4().hex}"
    home.write(probe, b"")
    try:
        now = home.detail(probe)
    finally:
        home.remove(probe)
    return None if now is None else max(0.0, seconds_of(now[1]) - seconds_of(written[1]))
