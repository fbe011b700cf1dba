"""Copies large files of a bucket to this machine's disk, once per machine, shared by its processes. A kernel lock protects a
copy; a killed process loses the lock. The last process that holds the lock removes the copy; the next use removes what a killed
process left. Files of a local folder are not copied.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from datacomp_core.store import process
from datacomp_core.store.folder import Folder
from datacomp_core.store.scratch import SCRATCH

_guard = threading.Lock()


class CachedFile:
    """`path` is a local file with the bytes of a file in a folder, as long as this object exists."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._lock: IO[bytes] | None = None
        if folder.is_local:
            folder.open(name).close()  # raises if it does not exist
            self.path = folder.path / name
            return
        home = Path(tempfile.gettempdir()) / f"datacomp-copies-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        mark = f"{folder.at(name)} {folder.mark(name)}"
        self.path = home / hashlib.sha256(mark.encode()).hexdigest()[:32]
        with _guard:
            _sweep(home)
            self._lock = _lock_of(self.path).open("ab")
            while not _held(self._lock, self.path):
                _fetch_alone(self._lock, folder, name, self.path)

    def close(self) -> None:
        """Release it; the last process removes it. Mapped memory stays readable."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with lock:
                _remove_unheld(self.path, lock)

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of a process half of the interpreter is gone
            self.close()


class CachedFolder:
    """Files of a folder on this machine's disk, each fetched once per machine, at its first use. It is pickled without them:
    each process opens its own.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._copies: list[CachedFile] = []
        self._opening = threading.Lock()

    def __getstate__(self) -> Folder:
        return self.folder

    def __setstate__(self, folder: Folder) -> None:
        self.__init__(folder)

    def path(self, below: str) -> Path:
        """The folder `below` on this machine's disk."""
        if self.folder.is_local:
            return self.folder.path / below
        with self._opening:
            if self._local is None:
                made = tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{process.token()}-")
                for name in self.folder.files():
                    self._copies.append(CachedFile(self.folder, name))
                    link = Path(made.name, name)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(self._copies[-1].path)
                self._local = made
        return Path(self._local.name, below)


def _held(lock: IO[bytes], path: Path) -> bool:
    """Return whether the file exists and stays: a shared lock keeps it from being removed."""
    fcntl.flock(lock, fcntl.LOCK_SH)
    return path.exists()


def _fetch_alone(lock: IO[bytes], folder: Folder, name: str, path: Path) -> None:
    """Fetch the file unless another process is fetching it. Waiting for the exclusive lock would mean waiting for all users of
    the file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_UN)
        time.sleep(random.uniform(0.01, 0.1))
        return
    if not path.exists():
        _fetch(folder, name, path)


def _fetch(folder: Folder, name: str, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with folder.open(name) as source, temporary.open("wb") as target:
        shutil.copyfileobj(source, target, 16 << 20)
    os.replace(temporary, path)


def _sweep(home: Path) -> None:
    """Remove unused copies."""
    for path in home.iterdir():
        if path.suffix != ".lock":
            with _lock_of(path.with_suffix("")).open("ab") as lock:
                _remove_unheld(path, lock)


def _remove_unheld(path: Path, lock: IO[bytes]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    path.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
