"""Stores artifacts. See `step` for the rule, `folder` for file access."""

from datacomp_core.store.folder import FileStat, Folder, scratch
from datacomp_core.store.step import Outcome, Planned, Step, step
from datacomp_core.store.store import Store

__all__ = ["FileStat", "Folder", "Outcome", "Planned", "Step", "Store", "scratch", "step"]
