"""Keeps what a run needs to resume after a crash: its local folder, the newest readable checkpoint, and, if the store is a
bucket, a copy there for another machine. Copies are made in the background, read back and compared by sha256 before
`latest.json` names them; the previous one is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datacomp_core.errors import DataError, StoreError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from datacomp_core.store.folder import hash_file
from datacomp_core.torch_files import why_unreadable
from datacomp_core.training.job import HISTORY, LATEST, PREVIOUS, RUN, UNREADABLE

log = logging.getLogger(__name__)

RESUME = "resume"
CHECKPOINTS = f"{RUN}/checkpoints"
POINTER = "latest.json"
CARRIED = (HISTORY, f"{RUN}/out.log")
CARRY_SECONDS = 1.0
RETRY_SECONDS = 30.0


@contextmanager
def run_folder(out: Folder) -> Generator[Path]:
    """The local folder of a run, found again by the next attempt; gone (also from `out`) when the block ends in peace."""
    folder = local_folder(out)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    latest = folder / CHECKPOINTS / LATEST
    newest_valid(latest)
    if not out.is_local:
        fetch(out / RESUME, folder)
    yield folder
    drop_run_folder(out)


def drop_run_folder(out: Folder) -> None:
    """Remove the folder of a run that has ended, and its copies. What is not there is not an error."""
    shutil.rmtree(local_folder(out), ignore_errors=not local_folder(out).exists())
    out.remove(RESUME)


def local_folder(out: Folder) -> Path:
    if out.is_local:
        return out.path / RESUME
    return settings().home.resolve() / "training" / hashlib.sha256(out.url.encode()).hexdigest()[:16]


def newest_valid(latest: Path) -> None:
    """Leave at `latest` the newest checkpoint that can be read, or none."""
    if not latest.exists():
        return
    import torch

    for candidate in (latest, latest.with_name(PREVIOUS)):
        if not candidate.exists():
            continue
        try:
            _check_sums(candidate)
            torch.load(candidate, map_location="cpu", weights_only=True)
        except Exception as problem:
            log.warning("checkpoint %s cannot be read (%s): using an older one", candidate, why_unreadable(problem))
            candidate.unlink()
            continue
        if candidate != latest:
            os.replace(candidate, latest)
        return


def _check_sums(checkpoint: Path) -> None:
    """DataError if a record of the file is not what was written; torch.load does not look."""
    with zipfile.ZipFile(checkpoint) as archive:
        if (damaged := archive.testzip()) is not None:
            raise DataError(f"{damaged} has another checksum")


def position(checkpoint: Path) -> tuple[int, int]:
    """Whole epochs, and optimizer steps of the one begun, that a checkpoint holds; (0, 0) if it is not there."""
    if not checkpoint.exists():
        return 0, 0
    import torch

    found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(found["epoch"]), int(found.get("steps", 0))


def fetch(remote: Folder, folder: Path) -> None:
    """Take the newest copy that matches its pointer, if it is further than the local checkpoint."""
    if not remote.exists(POINTER):
        return
    latest = folder / CHECKPOINTS / LATEST
    for copy in remote.read_json(POINTER)["copies"]:
        if tuple(copy["position"]) <= position(latest):
            return
        try:
            _download(remote, copy, latest)
        except (DataError, StoreError) as problem:
            log.warning("a copy of a checkpoint cannot be used: %s", problem)
            continue
        for stale in folder.glob(f"{UNREADABLE}*.jsonl"):
            stale.unlink()
        for path in copy["beside"]:
            (folder / path).write_bytes(remote.read(f"{copy['name']}/{path}"))
        log.info("resuming from %s", remote.at(copy["name"]))
        return


def _download(remote: Folder, copy: dict[str, Any], target: Path) -> None:
    part = target.with_name("download.pt")
    with remote.open(f"{copy['name']}/{LATEST}") as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, 16 << 20)
    if hash_file(part) != copy["sha256"]:
        part.unlink()
        raise DataError(f"{remote.at(copy['name'])} is not what was uploaded")
    os.replace(part, target)


class CheckpointUploader:
    """Copies each new checkpoint of a run to a bucket, in a separate thread. Does nothing if the store is a disk."""

    def __init__(self, folder: Path, out: Folder) -> None:
        self.folder, self.remote = folder, Folder(out.url) / RESUME
        self.latest = folder / CHECKPOINTS / LATEST
        self.copies: list[dict[str, Any]] = []
        self.problem = ""
        self._done = threading.Event()
        self._stamp = 0
        self._thread = None if out.is_local else threading.Thread(target=self._work, daemon=True, name="carrier")

    def __enter__(self) -> CheckpointUploader:
        if self._thread is not None:
            if self.remote.exists(POINTER):
                self.copies = self.remote.read_json(POINTER)["copies"]
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        """Retry a copy that fails: the training continues, and a lasting fault is an error at its end."""
        wait = CARRY_SECONDS
        while not self._done.wait(wait):
            wait = CARRY_SECONDS
            try:
                self.carry()
                self.problem = ""
            except Exception as problem:
                self.problem = f"the checkpoint could not be copied to {self.remote}: {problem}"
                log.warning("%s", self.problem)
                wait = RETRY_SECONDS

    def carry(self) -> None:
        """Copy the newest checkpoint, with the history up to it, unless it was."""
        if not self.latest.exists() or (stamp := self.latest.stat().st_mtime_ns) == self._stamp:
            return
        copy = self.latest.with_name("upload.pt")
        copy.unlink(missing_ok=True)
        os.link(self.latest, copy)  # the file is replaced, never written into: the link keeps what is being read
        at, sha256 = position(copy), hash_file(copy)
        name = f"{at[0]:04d}-{at[1]:08d}"
        beside = [path for path in (*CARRIED, *self._unreadable()) if (self.folder / path).exists()]
        for path in beside:
            self.remote.write(f"{name}/{path}", (self.folder / path).read_bytes())
        self.remote.put(f"{name}/{LATEST}", copy, sha256=sha256)
        with self.remote.open(f"{name}/{LATEST}") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:  # pyright: ignore[reportArgumentType]
                raise StoreError(f"{self.remote.at(name)} does not read back as it was written")
        made: dict[str, Any] = {"name": name, "position": at, "sha256": sha256, "beside": beside}
        kept = [made, *(one for one in self.copies if one["name"] != name)][:2]
        self.remote.write(POINTER, json.dumps({"copies": kept}).encode())
        for old in self.copies:
            if old["name"] not in {one["name"] for one in kept}:
                self.remote.remove(old["name"])
        self.copies, self._stamp = kept, stamp

    def _unreadable(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob(f"{UNREADABLE}*.jsonl"))
