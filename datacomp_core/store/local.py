"""Accesses files of a local disk. Writes are atomic; an error is never treated as an empty folder."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from datacomp_core.store import process

TEMPORARY = ".tmp"
MAX_NAME = 255
TRIES = 3
R = TypeVar("R")


class LocalFiles:
    """The operations of a `Folder` on absolute local paths. Errors are those of the operating system."""

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        found: list[bytes] = []
        for path, start, end in ranges:
            with open(path, "rb") as file:
                file.seek(start)
                found.append(file.read(end - start))
        return found

    def open(self, path: str) -> IO[bytes]:
        return open(path, "rb")

    def size(self, path: str) -> int | None:
        """Bytes of a file or of a folder's own entry; None if there is neither."""
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def mark(self, path: str) -> str | None:
        """Size and time of the last change of a file; None if there is no file."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{found.st_size}:{found.st_mtime}" if stat.S_ISREG(found.st_mode) else None

    def list(self, root: str) -> dict[str, int]:
        """Every file below `root` by relative path, with its size; links are followed, unfinished files left out."""
        try:
            return dict(_walk(root, "", frozenset()))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def details(self, root: str) -> dict[str, tuple[int, str, str]]:
        """As `list`, with size and time of the last change in nanoseconds; no disk knows a hash."""
        return {name: (size, str(os.stat(os.path.join(root, name)).st_mtime_ns), "") for name, size in self.list(root).items()}

    def detail(self, path: str) -> tuple[int, str, str] | None:
        """As `details`, of one file; None if there is no file."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (found.st_size, str(found.st_mtime_ns), "") if stat.S_ISREG(found.st_mode) else None

    def names(self, root: str) -> tuple[list[str], list[str]]:
        """Names of the files and of the folders directly in `root`."""
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(root) as entries:
                for entry in entries:
                    (folders if entry.is_dir() else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        return [name for name in files if not is_unfinished(name)], folders

    def write(self, path: str, data: bytes) -> None:
        _with_parent(Path(path), lambda target: self._write(target, data))

    def _write(self, target: Path, data: bytes) -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(data)

    def put(self, path: str, source: Path, size: int) -> None:
        source.stat()
        _with_parent(Path(path), lambda target: self._put(target, source))

    def _put(self, target: Path, source: Path) -> None:
        try:
            os.replace(source, target)
        except OSError as problem:
            if problem.errno != errno.EXDEV:
                raise
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            source.unlink()

    def create(self, path: str, data: bytes) -> bool:
        return _with_parent(Path(path), lambda target: self._create(target, data))

    def _create(self, target: Path, data: bytes) -> bool:
        temporary = temporary_of(target)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # A hard link is an exclusive create that appears with its content: O_EXCL alone shows an empty file first.
            os.link(temporary, target)
            return True
        except FileExistsError:
            return os.stat(temporary).st_nlink > 1 or target.read_bytes() == data  # over NFS the reply to a link may be lost
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        while os.path.lexists(path):
            with suppress(FileNotFoundError):  # of what another process removes at the same time the rest stays to be done
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def prune(self, path: str) -> None:
        with suppress(OSError):  # it is not there, or not empty
            os.rmdir(path)

    def sweep(self, root: str) -> None:
        for path, _ in _walk(root, "", frozenset(), unfinished=True) if os.path.isdir(root) else ():
            Path(root, path).unlink(missing_ok=True)

    def sweep_beside(self, path: str) -> None:
        """Remove what ended processes left unfinished of one file; its folder may be anybody's, and is not walked."""
        folder, name = os.path.split(path)
        try:
            entries = list(os.scandir(folder or "."))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            is_of_it = entry.name.lstrip(".").startswith(f"{name}.")
            if is_of_it and is_unfinished(entry.name) and process.is_left_behind(entry.name):
                Path(entry.path).unlink(missing_ok=True)

    def sweep_left_behind(self, root: str) -> None:
        for path, _ in _walk(root, "", frozenset(), unfinished=True) if os.path.isdir(root) else ():
            if process.is_left_behind(path.rsplit("/", 1)[-1]):
                Path(root, path).unlink(missing_ok=True)


def _with_parent(target: Path, write: Callable[[Path], R]) -> R:
    """Write a file, creating its folder again if it was empty and was pruned in between."""
    for _ in range(TRIES):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return write(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    return write(target)


def _walk(root: str, below: str, seen: frozenset[str], *, unfinished: bool = False) -> Iterator[tuple[str, int]]:
    folder = os.path.join(root, below) if below else root
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir():
                yield from _walk(root, path, seen | {real}, unfinished=unfinished)
            elif is_unfinished(entry.name) == unfinished:
                yield path, entry.stat().st_size
        except FileNotFoundError:  # removed while we looked, or a link that leads nowhere
            continue


def is_unfinished(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") and last.endswith(TEMPORARY)


def temporary_of(target: Path) -> Path:
    """A name beside `target` that says which process writes it, so that it can be swept once that process has ended."""
    token = process.token()
    room = MAX_NAME - len(token) - len(TEMPORARY) - 2
    name = target.name.encode()[:room].decode(errors="ignore")
    return target.with_name(f".{name}.{token}{TEMPORARY}")


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """A path to write to, which takes the place of `target` when the block ends without error."""
    temporary = temporary_of(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
