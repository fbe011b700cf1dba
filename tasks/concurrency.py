"""Limits how many steps run at once: one per core in this process, and one on this machine's GPUs (or over several nodes). A
file lock reserves the GPUs; the kernel releases it whenever its process ends. Between machines the work pool's concurrency
limit does the same, with a visible queue.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

from datacomp_core.device import has_cuda
from datacomp_core.settings import settings

ON_THE_GPU = frozenset({"checkpoints", "embeddings", "reports"})


@cache
def _steps() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(settings().num_steps)


@cache
def _gpu() -> threading.Lock:
    return threading.Lock()


@contextmanager
def the_gpus(lock: Path) -> Generator[None]:
    """Wait for the GPUs of this machine: among this process's threads, then among its processes."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _gpu(), lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def slot(kind: str, *, on_gpu: bool = False) -> Generator[None]:
    """Wait for a slot for a step of this kind; release it at the end."""
    alone = has_cuda() or settings().nodes > 1
    lock = Path(tempfile.gettempdir()) / f"datacomp-gpu-{os.getuid()}.lock"
    gpu = the_gpus(lock) if alone and (on_gpu or kind in ON_THE_GPU) else nullcontext()
    with gpu, _steps():
        yield
