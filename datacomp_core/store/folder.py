"""Accesses files in a folder on a local disk or in a bucket, through fsspec. Every write is atomic, so a file that exists is
complete, and a resumed step may skip what it finds. Paths given to a folder are relative to it, with `/` between names; every
other character of a path is literal: `[`, `]`, `*`, `?`, `{` and `}` are never a pattern.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from datacomp_core.errors import DataError, MissingFileError, StoreError
from datacomp_core.store.bucket import PART_BYTES, BucketFiles
from datacomp_core.store.failures import as_store_errors
from datacomp_core.store.local import LocalFiles, replacing
from datacomp_core.store.scratch import hash_file, scratch
from datacomp_core.store.stream import BLOCK_BYTES, RangeStream
from datacomp_core.store.web import WEB, WebFiles
from datacomp_core.untrusted_documents import parse_json

__all__ = ["PART_BYTES", "FileStat", "Folder", "Upload", "hash_file", "scratch"]

R = TypeVar("R")


class FileStat(NamedTuple):
    """One written file: path relative to the folder that owns the journal, size in bytes, sha256 (64 hex digits)."""

    path: str
    size: int
    sha256: str


class Upload(NamedTuple):
    """An upload in parts that is not finished: the path of its file in the folder that was asked, and when it was begun."""

    name: str
    begun: datetime


class Folder:
    """A folder by url: a local path, `file://`, `s3://bucket/prefix`, or any other fsspec filesystem.

    Cheap to make, picklable, and equal by url. A folder made by `journaled()` remembers what is written through it and
    through its sub-folders in this process, so that publishing need not read those bytes a second time.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        self.is_local = "://" not in text
        self.url = os.path.abspath(os.path.expanduser(text)) if self.is_local else text.rstrip("/")
        self._journal: dict[str, FileStat] | None = None
        self._prefix = ""
        self._guard: Callable[[], None] | None = None
        self._disk: LocalFiles | BucketFiles | None = None

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "is_local": self.is_local}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])

    def __truediv__(self, name: str) -> Folder:
        name = name.strip("/")
        if not name:
            return self
        child = Folder(f"{self.url}/{name}")
        child._journal, child._prefix, child._disk = self._journal, f"{self._prefix}{name}/", self._disk
        child._guard = self._guard
        return child

    def journaled(self) -> Folder:
        copy = Folder(self.url)
        copy._journal = {}
        return copy

    def guard(self, check: Callable[[], None]) -> None:
        """Call `check` before each change through this folder, and those made from it in this process: it raises if the folder is
        not ours any more.
        """
        self._guard = check

    def require_ours(self) -> None:
        if self._guard is not None:
            self._guard()

    @property
    def journal(self) -> dict[str, FileStat]:
        return dict(self._journal or {})

    def note(self, stat: FileStat) -> None:
        """Enter a file that another process wrote into this folder (`stat.path` relative to this folder)."""
        if self._journal is not None:
            path = self._prefix + stat.path
            self._journal[path] = stat._replace(path=path)

    @property
    def disk(self) -> LocalFiles | BucketFiles:
        """Return the operations of the file system. StoreError if it does not exist."""
        if self._disk is None:
            kind = WebFiles if self.url.startswith(WEB) else BucketFiles
            self._disk = LocalFiles() if self.is_local else kind(self.url)
        return self._disk

    @property
    def path(self) -> Path:
        """The local path. StoreError if this is not a local folder."""
        if not self.is_local:
            raise StoreError(f"{self.url} is not a local folder, which this needs: give a local folder.")
        return Path(self.url)

    def at(self, name: str) -> str:
        """The full url (local: absolute path) of a file in this folder."""
        return f"{self.url}/{name}"

    # Reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """All bytes of a file. MissingFileError if the store says that it is not there."""
        return self._ask(name, lambda: self.disk.read(self.at(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded). DataError if the file is missing or shorter."""
        return self.read_ranges([(name, start, end)])[0]

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """`read_range` of many (name, start, end) at once; a bucket is asked for them concurrently."""
        try:
            found = self._ask(
                ranges[0][0] if len(ranges) == 1 else "",
                lambda: self.disk.read_ranges([(self.at(name), start, end) for name, start, end in ranges]),
            )
        except MissingFileError:
            for name in dict.fromkeys(name for name, _, _ in ranges):
                if self.size(name) is None:
                    raise MissingFileError(f"{self.at(name)} is not there.") from None
            raise
        except StoreError:
            self._refuse_short(ranges)  # a bucket refuses a range that begins after the end
            raise
        if any(len(data) != end - start for (_, start, end), data in zip(ranges, found, strict=True)):
            self._refuse_short(ranges)
            raise StoreError(f"{self.url} returned fewer bytes than it has because the connection was cut: run it again.")
        return found

    def _refuse_short(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """DataError if a file really ends before one of the ranges does: bytes that did not arrive do not prove that."""
        sizes: dict[str, int | None] = {}
        for name, _, end in ranges:
            size = sizes[name] if name in sizes else sizes.setdefault(name, self.size(name))
            if size is not None and size < end:
                raise DataError(f"{self.at(name)} ends before byte {end}: it is truncated; make it again.")

    def read_json(self, name: str) -> Any:
        return parse_json(self.read(name), self.at(name))

    def open(self, name: str) -> IO[bytes]:
        """A stream of a file. MissingFileError if the store says that it is not there."""
        disk = self.disk
        if isinstance(disk, LocalFiles):
            return self._ask(name, lambda: disk.open(self.at(name)))
        size = self._ask(name, lambda: disk.file_size(self.at(name)))
        return io.BufferedReader(RangeStream(self, name, size), BLOCK_BYTES)

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local path, also from a web server that knows no ranges. MissingFileError if it is not there."""
        disk = self.disk
        if isinstance(disk, WebFiles):
            self._ask(name, lambda: disk.fetch(self.at(name), target))
            return
        with self.open(name) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, BLOCK_BYTES)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or a folder of that name. StoreError if that cannot be told."""
        return self.size(name) is not None

    def is_file(self, name: str) -> bool:
        """Whether a file, not a folder, is at `name`."""
        return self._ask(name, lambda: self.disk.mark(self.at(name))) is not None

    def mark(self, name: str) -> str:
        """Return a mark that changes when the file changes: size, and time or the bucket's etag.

        Empty if a web server does not state them.
        """
        found = self._ask(name, lambda: self.disk.mark(self.at(name)))
        if found is None:
            raise MissingFileError(f"{self.at(name)} is not there.")
        return found

    def size(self, name: str = "") -> int | None:
        """Bytes of a file; some number for a folder; None if the store says that there is neither."""
        return self._ask(name, lambda: self.disk.size(self.at(name) if name else self.url))

    def files(self, suffix: str = "") -> dict[str, int]:
        """Yield every file below this folder, by relative path in sorted order, with its size, without unfinished ones."""
        names = self._ask("", lambda: self.disk.list(self.url))
        return {name: names[name] for name in sorted(names) if name.endswith(suffix)}

    def details(self, suffix: str = "") -> dict[str, tuple[int, str, str]]:
        """As `files`, with size, time of the last change, and the server's ETag (empty where there is none)."""
        found = self._ask("", lambda: self.disk.details(self.url))
        return {name: found[name] for name in sorted(found) if name.endswith(suffix)}

    def detail(self, name: str) -> tuple[int, str, str] | None:
        """As `details`, of one file, without a listing; None if there is no file."""
        return self._ask(name, lambda: self.disk.detail(self.at(name)))

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none if it does not exist."""
        return sorted(self._ask("", lambda: self.disk.names(self.url))[1])

    def names(self) -> list[str]:
        """Names of the files directly in this folder, sorted; none if it does not exist. Those below are not listed."""
        return sorted(self._ask("", lambda: self.disk.names(self.url))[0])

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> FileStat:
        """Put `data` at `name` at once, over whatever was there."""
        self.require_ours()
        self._ask(name, lambda: self.disk.write(self.at(name), data))
        return self._noted(FileStat(name, len(data), hashlib.sha256(data).hexdigest()))

    def write_json(self, name: str, value: Any) -> FileStat:
        return self.write(name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))

    def put(self, name: str, source: Path, *, sha256: str | None = None) -> FileStat:
        """Put a local file at `name` at once: moved if both are on one local file system, else uploaded and removed."""
        self.require_ours()
        stat = FileStat(name, source.stat().st_size, sha256 or hash_file(source))
        self._ask(name, lambda: self.disk.put(self.at(name), source, stat.size))
        return self._noted(stat)

    @contextmanager
    def writing(self, name: str) -> Generator[Path]:
        """A local path to write to with any library; what it holds appears at `name` when the block ends without error."""
        self.require_ours()
        if not self.is_local:
            with scratch() as folder:
                temporary = folder / Path(name).name
                yield temporary
                self.put(name, temporary)
            return
        target = Path(self.at(name))
        with as_store_errors(self._where(name)):
            target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            yield temporary
            self.require_ours()
        if self._journal is not None:
            self._noted(FileStat(name, target.stat().st_size, hash_file(target)))

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` at `name` only if nothing is there; False if something is. Atomic among machines.

        True too if exactly these bytes lie there: a reply may have been lost, and the client's own retry was refused. Writers
        that must be told apart write bytes that differ.
        """
        return self._ask(name, lambda: self.disk.create(self.at(name), data))

    def remove(self, name: str = "") -> None:
        """Remove a file, or this whole folder. What is not there is not an error.

        For scratch and for what was never published. Published data is removed by `deletion.delete` alone.
        """
        self.require_ours()
        self._ask(name, lambda: self.disk.remove(self.at(name) if name else self.url))
        if self._journal is not None:
            gone = f"{self._prefix}{name}".rstrip("/")
            for path in [path for path in self._journal if not gone or path == gone or path.startswith(f"{gone}/")]:
                del self._journal[path]

    def prune(self) -> None:
        """Remove this local folder if it is empty; a bucket has no empty ones."""
        if isinstance(self.disk, LocalFiles):
            self.disk.prune(self.url)

    def move(self, name: str, to: str) -> None:
        """Rename a file or a folder of a local folder at once. What is not there is not moved."""
        target = self.path / to
        with as_store_errors(self._where(name)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                os.rename(self.at(name), target)

    def sweep(self) -> None:
        """Remove the unfinished files of killed writers. Only for a folder without another running writer."""
        self._ask("", lambda: self.disk.sweep(self.url))

    def uploads(self) -> list[Upload]:
        """Return the multipart uploads below this folder that were neither completed nor aborted; none on a disk."""
        if not isinstance(self.disk, BucketFiles):
            return []
        disk, cut = self.disk, len(self.url.partition("://")[2].partition("/")[2])
        found = self._ask("", lambda: disk.uploads(self.url))
        return [Upload(upload["Key"][cut:].lstrip("/"), upload["Initiated"]) for upload in found]

    def abort_uploads(self, name: str, before: float) -> None:
        """Abort the uploads in parts of a file that were begun before a time (seconds since 1970)."""
        if isinstance(self.disk, BucketFiles):
            disk = self.disk
            self._ask(name, lambda: disk.abort(self.at(name), before))

    def sweep_left_behind(self, name: str = "") -> None:
        """Remove the unfinished files of processes of this machine that have ended, while others may be at work; in a bucket,
        uploads in parts that are a day old.

        With a `name` only those of this file on a disk: for a file in a folder that is not ours.
        """
        if isinstance(self.disk, LocalFiles):
            sweep = self.disk.sweep_beside if name else self.disk.sweep_left_behind
            self._ask(name, partial(sweep, self.at(name) if name else self.url))
        elif not name:
            self._ask("", partial(self.disk.sweep_left_behind, self.url))

    # ---------------------------------------------------------------------------------------------------------------

    def _noted(self, stat: FileStat) -> FileStat:
        self.note(stat)
        return stat

    def _ask(self, name: str, request: Callable[[], R]) -> R:
        with as_store_errors(self._where(name)):
            return request()

    def _where(self, name: str) -> str:
        return self.at(name) if name else self.url
