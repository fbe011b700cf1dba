"""The one door to files: a folder on a local disk or in a bucket, through fsspec.

Whatever is written through this door appears whole or not at all, so a file that exists is a complete one; a step that
is resumed may skip what it finds. Paths given to a folder are relative to it, with `/` between names; every other
character of a path stands for itself: `[`, `]`, `*`, `?`, `{` and `}` are never a pattern.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec

from datacomp_core.errors import DataError, DiskFullError, StoreError

HASH_BLOCK = 1 << 20
PART_BYTES = 8 << 20
"""Of an upload in parts, ten of which are in flight and in memory: boto3's own size. s3fs takes 50 MB."""
MOST_PARTS = 10_000
REMOVERS = 16


class FileStat(NamedTuple):
    """One written file: path relative to the folder that owns the journal, size in bytes, sha256 (64 hex digits)."""

    path: str
    size: int
    sha256: str


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
        self._fs: Any = None

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
        child._journal, child._prefix, child._fs = self._journal, f"{self._prefix}{name}/", self._fs
        return child

    def journaled(self) -> Folder:
        copy = Folder(self.url)
        copy._journal = {}
        return copy

    @property
    def journal(self) -> dict[str, FileStat]:
        return dict(self._journal or {})

    def note(self, stat: FileStat) -> None:
        """Enter a file that another process wrote into this folder (`stat.path` relative to this folder)."""
        if self._journal is not None:
            path = self._prefix + stat.path
            self._journal[path] = stat._replace(path=path)

    @property
    def fs(self) -> Any:
        if self._fs is None:
            try:
                self._fs = _filesystem(self.url)
            except (ValueError, ImportError) as problem:
                raise StoreError(f"Cannot open {self.url}: {problem}") from problem
        return self._fs

    @property
    def path(self) -> Path:
        """The local path. StoreError if this is not a local folder."""
        if not self.is_local:
            raise StoreError(f"{self.url} is not a local folder, and this needs one.")
        return Path(self.url)

    def at(self, name: str) -> str:
        """The full url (local: absolute path) of a file in this folder."""
        return f"{self.url}/{name}"

    # Reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """All bytes of a file. DataError if it is not there."""
        with self._told(name):
            return self.fs.cat_file(self.at(name))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded). DataError if the file is missing or shorter."""
        with self._told(name):
            data = self.fs.cat_file(self.at(name), start=start, end=end)
        if len(data) != end - start:
            raise DataError(f"{self.at(name)} ends before byte {end}: it is truncated; make it again.")
        return data

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """`read_range` of many (name, start, end) at once; a bucket is asked for them concurrently."""
        with self._told(""):
            names, starts, ends = [self.at(name) for name, _, _ in ranges], [r[1] for r in ranges], [r[2] for r in ranges]
            found = self.fs.cat_ranges(names, starts, ends, on_error="raise")
        for (name, start, end), data in zip(ranges, found, strict=True):
            if len(data) != end - start:
                raise DataError(f"{self.at(name)} ends before byte {end}: it is truncated; make it again.")
        return found

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError as problem:
            raise DataError(f"{self.at(name)} is not valid JSON ({problem}).") from problem

    def open(self, name: str) -> IO[bytes]:
        with self._told(name):
            return self.fs.open(self.at(name), "rb")

    def exists(self, name: str = "") -> bool:
        with self._told(name):
            return bool(self.fs.exists(self.at(name) if name else self.url))

    def is_file(self, name: str) -> bool:
        """Whether a file, not a folder, is at `name`."""
        with self._told(name):
            return bool(self.fs.isfile(self.at(name)))

    def mark(self, name: str) -> str:
        """What tells a changed file from the one that was read before: size, and time or the bucket's etag."""
        with self._told(name):
            self.fs.invalidate_cache(self.at(name))
            return _mark(self.fs.info(self.at(name)))

    def files(self, suffix: str = "") -> dict[str, int]:
        """Every file below this folder, by relative path in sorted order, with its size; unfinished ones are none."""
        with self._told(""):
            self.fs.invalidate_cache()
            found = self.fs.find(self.url, detail=True)
        cut = len(self.fs._strip_protocol(self.url)) + 1
        names = {path[cut:]: int(info["size"]) for path, info in found.items()}
        return {name: names[name] for name in sorted(names) if name.endswith(suffix) and not _unfinished(name)}

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none if it does not exist."""
        with self._told(""):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self.url, detail=True)
            except FileNotFoundError:
                return []
        return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in found if info["type"] == "directory")

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> FileStat:
        """Put `data` at `name` at once, over whatever was there."""
        with self._told(name):
            if self.is_local:
                target = Path(self.at(name))
                target.parent.mkdir(parents=True, exist_ok=True)
                with _replacing(target) as temporary:
                    temporary.write_bytes(data)
            else:
                self.fs.pipe_file(self.at(name), data)
        return self._noted(FileStat(name, len(data), hashlib.sha256(data).hexdigest()))

    def write_json(self, name: str, value: Any) -> FileStat:
        return self.write(name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))

    def put(self, name: str, source: Path, *, sha256: str | None = None) -> FileStat:
        """Put a local file at `name` at once: moved if both lie on one local file system, else uploaded and removed."""
        stat = FileStat(name, source.stat().st_size, sha256 or hash_file(source))
        with self._told(name):
            if self.is_local:
                target = Path(self.at(name))
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(source, target)
            else:
                self.fs.put_file(str(source), self.at(name), **self._parts(stat.size))
                source.unlink()
        return self._noted(stat)

    def _parts(self, size: int) -> dict[str, int]:
        return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS))} if self.url.startswith("s3://") else {}

    @contextmanager
    def writing(self, name: str) -> Generator[Path]:
        """A local path to write to with any library; what it holds appears at `name` when the block ends without error."""
        if not self.is_local:
            with scratch() as folder:
                temporary = folder / Path(name).name
                yield temporary
                self.put(name, temporary)
            return
        target = Path(self.at(name))
        with self._told(name):
            target.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(target) as temporary:
            yield temporary
        if self._journal is not None:
            self._noted(FileStat(name, target.stat().st_size, hash_file(target)))

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` at `name` only if nothing is there; False if something is. Atomic among machines."""
        with self._told(name):
            return self._create_local(name, data) if self.is_local else self._create_remote(name, data)

    def _create_local(self, name: str, data: bytes) -> bool:
        target = Path(self.at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # A hard link is an exclusive create that appears with its content: O_EXCL alone shows an empty file first.
            os.link(temporary, target)
            return True
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)

    def _create_remote(self, name: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(self.at(name), data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as problem:
            if _is_precondition(problem):
                return False
            raise

    def remove(self, name: str = "") -> None:
        """Remove a file, or this whole folder. What is not there is not an error."""
        target = self.at(name) if name else self.url
        with self._told(name):
            if self.is_local:
                shutil.rmtree(target) if os.path.isdir(target) else Path(target).unlink(missing_ok=True)
                return
            self._remove_remote(target)

    def _remove_remote(self, target: str) -> None:
        """`fs.rm` would take `[`, `*` and `?` in a path for a pattern and remove the siblings that match it."""
        self.fs.invalidate_cache()
        found = set(self.fs.find(target)) | ({target} if self.fs.isfile(target) else set())
        with ThreadPoolExecutor(REMOVERS) as threads:
            for _ in threads.map(self.fs.rm_file, found):
                pass
        self.fs.invalidate_cache()

    def sweep(self) -> None:
        """Remove what killed writers left unfinished. Only for a folder in which nobody else is at work."""
        if self.is_local and os.path.isdir(self.url):
            for path in self.path.rglob(".*.tmp"):
                path.unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------------------------------------

    def _noted(self, stat: FileStat) -> FileStat:
        self.note(stat)
        return stat

    @contextmanager
    def _told(self, name: str) -> Generator[None]:
        """Turn the errors of disks and buckets into one sentence; leave the errors of the caller's block alone."""
        where = self.at(name) if name else self.url
        try:
            yield
        except FileNotFoundError as problem:
            raise DataError(f"{where} is not there.") from problem
        except PermissionError as problem:
            raise StoreError(f"No permission for {where}: choose another store (DATACOMP_STORE) or mend its rights.") from problem
        except OSError as problem:
            if problem.errno == errno.ENOSPC:
                raise DiskFullError(where) from problem
            raise StoreError(f"Cannot use {where}: {problem}") from problem
        except Exception as problem:
            if type(problem).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
                raise StoreError(f"Cannot use {where}: {problem}") from problem
            raise


def _filesystem(url: str) -> Any:
    """What serves a url. `url_to_fs` would take `::` in a path for a chain of filesystems."""
    protocol, is_url, _ = url.partition("://")
    if not is_url:
        return fsspec.filesystem("file")
    if "::" in protocol:
        return fsspec.core.url_to_fs(url)[0]
    kind = fsspec.get_filesystem_class(protocol)
    return kind(**kind._get_kwargs_from_urls(url))


def _mark(info: dict[str, Any]) -> str:
    when = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
    return f"{info['size']}:" + str(when).strip('"')


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def scratch() -> Generator[Path]:
    """A private local folder that is gone afterwards. It follows TMPDIR."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="datacomp-") as folder:
        yield Path(folder)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def _unfinished(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") and last.endswith(".tmp")


@contextmanager
def _replacing(target: Path) -> Generator[Path]:
    temporary = _temporary(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as problem:
        if problem.errno != errno.EXDEV:
            raise
        with _replacing(target) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def _is_precondition(problem: BaseException | None) -> bool:
    """S3 answers a refused condition with 412 or, when two writers race, 409; s3fs wraps it in several ways."""
    while problem is not None:
        response = getattr(problem, "response", None)
        code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409") or "PreconditionFailed" in str(problem):
            return True
        problem = problem.__cause__
    return False
