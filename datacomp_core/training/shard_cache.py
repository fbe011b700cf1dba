"""Provides shards on a local disk: in place, or copies of remote ones that all processes of this machine share. A copy is made
once, under a lock that is released if its maker dies, and before its use, so that no process waits for a download.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from datacomp_core.store import Folder

DOWNLOADS = 4  # at once, in each process


class ShardCache:
    """`url` is the folder of a shard set, `name` a shard. Picklable before first use."""

    def __init__(self, cache: str) -> None:
        self.cache = Path(cache)
        self._coming: dict[tuple[str, str], Future[Path]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def open(self, url: str, name: str) -> int:
        """A descriptor of the shard's local file. DataError if it is not there."""
        folder = Folder(url)
        if folder.is_local:
            return os.open(folder.path / f"{name}.tar", os.O_RDONLY)
        coming = self._coming.pop((url, name), None)
        path = coming.result() if coming else self._copied(url, name)
        while True:
            try:
                return os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # another process had read it and dropped it meanwhile
                path = self._copied(url, name)

    def fetch(self, url: str, name: str) -> None:
        """Begin to copy a shard that will be read soon. Its error, if there is one, is raised when it is read."""
        if Folder(url).is_local or (url, name) in self._coming or self._at(url, name).exists():
            return
        self._pool = self._pool or ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards")
        self._coming[url, name] = self._pool.submit(self._copied, url, name)

    def drop(self, url: str, name: str) -> None:
        """Remove the copy of a shard; a process that has it open can continue to read it."""
        if not Folder(url).is_local:
            self._at(url, name).unlink(missing_ok=True)

    def _at(self, url: str, name: str) -> Path:
        return self.cache / url.replace("://", "-").replace("/", "-") / f"{name}.tar"

    def _copied(self, url: str, name: str) -> Path:
        copy = self._at(url, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                with (
                    Folder(url).open(f"{name}.tar") as remote,
                    Folder(copy.parent).writing(copy.name) as local,
                    local.open("wb") as file,
                ):
                    shutil.copyfileobj(remote, file, 4 << 20)
        return copy
