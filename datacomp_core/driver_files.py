"""Transfers what is too large for a message between a driver and its workers, and files that only the driver has. On one
machine it is a scratch folder on disk. On a cluster it is a folder `scratch/` next to a step's output, in the bucket that all
machines reach. It is removed at the end of its block, or with the attempt of a killed run; the next command removes what a
killed command left.
"""

from __future__ import annotations

import io
import re
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from datacomp_core import engines
from datacomp_core.errors import DataError, StoreError
from datacomp_core.store import lease, process
from datacomp_core.store.attempt import SCRATCH
from datacomp_core.store.folder import Folder, hash_file, scratch

FILES = "files"
PINNED = re.compile(r"(?P<file>[^#]+?)(:[A-Za-z0-9_]+)?#[0-9a-f]{12}")
SILENT_SECONDS = 24 * 3600
"""A process of another machine without a sign of life for this long was killed."""
STALE_SECONDS = 7 * 24 * 3600
"""The same for scratch of an earlier version without a lease, by its start time."""


@dataclass(frozen=True)
class Exchange:
    """Arrays and files by name, visible to the driver and all workers. It can be pickled."""

    folder: Folder

    def __truediv__(self, name: str) -> Exchange:
        return Exchange(self.folder / name)

    def save(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write an array atomically, so that a worker's second try may repeat it."""
        if self.folder.is_local:
            with self.folder.writing(name) as path, path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            return
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.folder.write(name, buffer.getvalue())

    def load(self, name: str) -> npt.NDArray[Any]:
        if self.folder.is_local:
            return np.load(self.folder.path / name, allow_pickle=False)
        return np.load(io.BytesIO(self.folder.read(name)), allow_pickle=False)

    def find(self, name: str) -> npt.NDArray[Any] | None:
        """Return the array, or None if there is none of that name."""
        there = (self.folder.path / name).exists() if self.folder.is_local else self.folder.exists(name)
        return self.load(name) if there else None

    def bring(self, path: Path) -> str:
        """Copy a file of the driver's disk here, once; return the name under which workers find it (`fetch_from_driver`)."""
        name = f"{FILES}/{hash_file(path)}"
        if not self.folder.exists(name):
            with scratch() as local:
                copy = local / path.name
                copy.symlink_to(path.absolute())
                self.folder.put(name, copy)
        return name


class Reachable(NamedTuple):
    """A file that the driver and all workers can read."""

    folder: Folder
    name: str


def reachable(shared: Exchange, url: str, here: Path) -> Reachable:
    """The file at `url`, of which `here` is a copy on this machine, so that workers of the current engine reach it."""
    if not engines.spans_machines():
        return Reachable(Folder(here.parent), here.name)
    home, _, name = url.rpartition("/")
    if "://" in url:
        return Reachable(Folder(home), name)
    return Reachable(shared.folder, shared.bring(here))


@contextmanager
def exchange(near: Folder | None = None) -> Generator[Exchange]:
    """Open a private place for a driver and the workers of the current engine; it is removed after the block. `near` is the
    step's output folder. If that is on this machine's disk and the workers are elsewhere, the store is used.
    """
    if not engines.spans_machines():
        with scratch() as local:
            yield Exchange(Folder(local))
        return
    home = _home(near) / SCRATCH
    _sweep(home)
    name = f"{int(time.time())}-{uuid.uuid4().hex[:12]}"
    if not lease.take_turn(home, name, 1):
        raise StoreError(f"{home.at(name)} was just taken by another process: run again.")
    made = Exchange(home / name)
    try:
        with lease.renewed(home, name, 1), engines.carry_value(made):
            yield made
    finally:
        _remove(home, name)


def bring_files(shared: Exchange, *asked: BaseModel) -> None:
    """Make files that filters and scores name, and that only this machine has, available to the workers of a cluster."""
    if not engines.spans_machines():
        return
    for path in {path for one in asked for path in _files_named(one.model_dump(mode="json"))}:
        if path.is_file():
            shared.bring(path)


def _files_named(value: Any) -> Iterator[Path]:
    """Return the local files that a spec's fields name with the digits of their hash: `centroids.npy#3fa2b1c04d5e`."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _files_named(item)
    elif isinstance(value, str) and "://" not in value and (found := PINNED.fullmatch(value)):
        yield Path(found["file"])


def fetch_from_driver(digits: str) -> bytes | None:
    """In a worker: return the driver's file whose sha256 begins with `digits`; None if there is none."""
    here = engines.carried_value()
    if not isinstance(here, Exchange) or not digits:
        return None
    for name in (here.folder / FILES).files():
        if name.startswith(digits):
            return here.folder.read(f"{FILES}/{name}")
    return None


def _home(near: Folder | None) -> Folder:
    from datacomp_core.settings import settings

    if near is not None and not near.is_local:
        return near
    store = Folder(settings().store_url)
    return near if near is not None and store.is_local else store / "_work"


def _sweep(home: Folder) -> None:
    """Remove the scratch of killed commands."""
    with suppress(DataError, StoreError):  # a process that cannot list it cannot work in it either, and fails there
        there = home.folders()  # before the leases, which are created first
        leases = lease.latest_turns(home)
        for name in {*there, *leases}:
            if _is_left_behind(home, name, name in leases):
                _remove(home, name)


def _is_left_behind(home: Folder, name: str, has_lease: bool) -> bool:
    if not has_lease:
        begun = name.partition("-")[0]
        return begun.isdigit() and time.time() - int(begun) > STALE_SECONDS
    holder = lease.read(home, name, 1)
    if holder is None:  # it has just ended
        return False
    gone = process.is_gone(holder.said)
    return gone if gone is not None else holder.silent_seconds() > SILENT_SECONDS


def _remove(home: Folder, name: str) -> None:
    home.remove(name)
    home.remove(lease.file_of(name, 1))
