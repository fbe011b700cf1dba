"""Stores artifacts. See `step` for the rule, `folder` for file access."""

from datacomp_core.store.folder import FileStat, Folder, scratch
from datacomp_core.store.step import PlannedStep, Step, StepOutcome, step
from datacomp_core.store.store import Store

__all__ = ["FileStat", "Folder", "PlannedStep", "Step", "StepOutcome", "Store", "scratch", "step"]
