"""Private folders of this machine's disk, and files on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from datacomp_core.store import process

SCRATCH = "datacomp-"


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def scratch() -> Generator[Path]:
    """A private local folder that is gone afterwards. It follows TMPDIR. The first one of a process sweeps those of dead ones."""
    _sweep_scratch(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{process.token()}-") as folder:
        yield Path(folder)


@cache
def _sweep_scratch(place: str) -> None:
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(SCRATCH) and process.is_left_behind(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
