"""What another process does with a slot; a module of its own, so that the process has nothing else to import."""

from __future__ import annotations

from datacomp_core.shared_pixels import Slot


def fill(slot: Slot, value: int) -> None:
    slot.array((2, 3))[:] = value
