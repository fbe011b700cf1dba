"""How many steps work at once in this process: as many as there are cores, and one training where a GPU does the work.

Slots bound one process. Across processes and machines the deployments' concurrency limits do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache

from datacomp_core.settings import settings

ON_THE_GPU = frozenset({"checkpoints", "embeddings", "reports"})


@cache
def _steps() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(settings().num_steps)


@cache
def _gpu() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(1)


@contextmanager
def slot(kind: str) -> Generator[None]:
    """Wait for a place to work on a step of this kind; give it back."""
    gpu = _gpu() if kind in ON_THE_GPU and os.path.exists("/dev/nvidia0") else nullcontext()
    with gpu, _steps():
        yield
