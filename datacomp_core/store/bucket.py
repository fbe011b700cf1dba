"""Accesses files of a bucket, or of any other fsspec file system, when requests fail, replies are lost and bodies are
truncated. "Not there" is only what the store said twice; every other failure is an error, retried if that is harmless. A body is
compared with the size that the store reports. After a refused or failed conditional write the store is asked what is there.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from datacomp_core.errors import StoreError
from datacomp_core.store import failures
from datacomp_core.store.bulk import Bulk, bulk_of, is_plain
from datacomp_core.store.clients import filesystem
from datacomp_core.store.failures import (
    CutError,
    check_size,
    is_refused,
    is_transient,
    refuse_lost_bucket,
    retry_if_missing,
    with_retries,
)
from datacomp_core.store.local import is_unfinished

PART_BYTES = 8 << 20
"""Of an upload in parts, ten of which are in flight and in memory: boto3's own size. s3fs takes 50 MB."""
MOST_PARTS = 10_000
WHOLE_BYTES = 32 << 20
"""A larger file is read in ranges of this size at once."""
DELETE_KEYS = 1000
OLD_UPLOAD_SECONDS = 24 * 3600


class BucketFiles:
    """The operations of a `Folder` on full urls of one file system. Errors are OSErrors or those of the client library."""

    def __init__(self, url: str) -> None:
        self.is_s3 = url.startswith(("s3://", "s3a://"))
        try:
            # Listings are never cached: another machine may have written since.
            self.fs: Any = filesystem(url)
        except (ValueError, ImportError) as problem:
            raise StoreError(f"Cannot open {url}: {problem}") from problem
        if self.is_s3:
            self.fs.retries = 1  # botocore tries again by itself, and so do we

    # Reading ------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        return with_retries(lambda: self._read(path))

    def _read(self, path: str) -> bytes:
        bulk, (key,) = self._bulk(path)
        if bulk is not None and (got := bulk.get(key, WHOLE_BYTES)) is not None and got[1] <= WHOLE_BYTES:
            return check_size(*got, path)
        data = retry_if_missing(lambda: self._read_by_s3fs(path)) if bulk is None else self._read_by_s3fs(path)
        if bulk is not None and len(data) <= WHOLE_BYTES:
            bulk.failed()
        return data

    def _read_by_s3fs(self, path: str) -> bytes:
        if self.is_s3:
            found: Any = sync(self.fs.loop, self._get, path)  # without types: what a coroutine returns is lost to it
            if isinstance(found, bytes):
                return found
        size = self._file_size(path)
        if not size:
            return b""
        starts = list(range(0, size, WHOLE_BYTES))
        ends = [min(start + WHOLE_BYTES, size) for start in starts]
        return b"".join(self._ranges([path] * len(starts), starts, ends))

    async def _get(self, path: str) -> bytes | int:
        """A file by one request (s3fs makes two), or its size if it is to be read in ranges at once."""
        bucket, key, _ = self.fs.split_path(path)
        answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
        size, body = int(answer["ContentLength"]), answer["Body"]
        try:
            data = b"" if size > WHOLE_BYTES else await body.read()
        finally:
            body.close()
        if size > WHOLE_BYTES:
            return size
        return check_size(data, size, path)

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """The bytes of each (path, start, end), asked for at once. An OSError if one of the files is shorter."""
        return with_retries(lambda: self._ranges([r[0] for r in ranges], [r[1] for r in ranges], [r[2] for r in ranges]))

    def _ranges(self, paths: list[str], starts: list[int], ends: list[int]) -> list[bytes]:
        bulk, keys = self._bulk(*paths)
        if bulk is not None and (quick := bulk.ranges(list(zip(keys, starts, ends, strict=True)))) is not None:
            return quick
        found: list[bytes] = retry_if_missing(lambda: self.fs.cat_ranges(paths, starts, ends, on_error="raise"))
        for path, start, end, data in zip(paths, starts, ends, found, strict=True):
            if len(data) != end - start:
                raise CutError(errno.EIO, f"{len(data)} bytes arrived instead of {end - start}", path)
        if bulk is not None:
            bulk.failed()
        return found

    def _bulk(self, *paths: str) -> tuple[Bulk | None, list[str]]:
        """Return the bulk reader for these paths of one bucket and their keys; None where only s3fs can read them."""
        if not self.is_s3:
            return None, [""] * len(paths)
        names = [self.fs._strip_protocol(path).partition("/") for path in paths]
        keys, bucket = [key for _, _, key in names], names[0][0] if names else ""
        if not names or any(name != bucket or not is_plain(bucket, key) for name, _, key in names):
            return None, keys
        return bulk_of(self.fs, bucket), keys

    def file_size(self, path: str) -> int:
        """Bytes of a file. FileNotFoundError if there is no file."""
        return with_retries(lambda: retry_if_missing(lambda: self._file_size(path)))

    def size(self, path: str) -> int | None:
        info = self._info(path)
        return None if info is None else int(info["size"] or 0)

    def mark(self, path: str) -> str | None:
        """Size and etag (or time) of a file; None if there is no file."""
        info = self._info(path)
        if info is None or info["type"] == "directory":
            return None
        when = next((info[name] for name in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(name)), "")
        return f"{info['size']}:" + str(when).strip('"')

    def _info(self, path: str) -> dict[str, Any] | None:
        def ask() -> dict[str, Any] | None:
            try:
                return retry_if_missing(lambda: self.fs.info(path))
            except FileNotFoundError as problem:
                refuse_lost_bucket(problem)
                return None

        return with_retries(ask)

    def _file_size(self, path: str) -> int:
        info = self.fs.info(path)
        if info["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return int(info["size"])

    def list(self, root: str) -> dict[str, int]:
        return {name: size for name, (size, _, _) in self.details(root).items()}

    def details(self, root: str) -> dict[str, tuple[int, str, str]]:
        """As `list`, with size, time of the last change and the server's ETag (empty where there is none)."""
        cut = len(self.fs._strip_protocol(root)) + 1
        found = {info["name"][cut:]: info for info in self._listed(root)}
        return {
            name: _detail(found[name]) for name in sorted(found) if name and not name.endswith("/") and not is_unfinished(name)
        }

    def detail(self, path: str) -> tuple[int, str, str] | None:
        """As `details`, of one file; None if there is no file."""
        info = self._info(path)
        return None if info is None or info["type"] == "directory" else _detail(info)

    def _listed(self, root: str) -> list[dict[str, Any]]:
        """The files of `_found`. A listing without one is asked for again before it is believed, and once more where s3fs, which
        then asks for `root` itself, answers that it is a folder.
        """
        for left in (2, 1, 0):
            found = with_retries(lambda: list(self._found(root)))
            files = [info for info in found if info["type"] != "directory"]
            if files or not left or (left == 1 and not found):
                return files
        raise AssertionError("the last listing is believed")

    def _found(self, root: str) -> Iterator[dict[str, Any]]:
        """Every file below `root`. fsspec's own `find` takes a folder that cannot be listed for an empty one; s3fs's does not."""
        self.fs.invalidate_cache()
        if self.is_s3:
            yield from self.fs.find(root, detail=True).values()
            return
        folders = [root]
        while folders:
            try:
                found = self.fs.ls(folders.pop(), detail=True)
            except FileNotFoundError:  # nothing was written there, or it was removed while we looked
                continue
            folders += [info["name"] for info in found if info["type"] == "directory"]
            yield from (info for info in found if info["type"] != "directory")

    def names(self, root: str) -> tuple[list[str], list[str]]:
        def ask() -> list[dict[str, Any]]:
            self.fs.invalidate_cache()
            try:
                return self.fs.ls(root, detail=True)
            except FileNotFoundError as problem:
                refuse_lost_bucket(problem)
                return []

        own = self.fs._strip_protocol(root)
        files: list[str] = []
        folders: list[str] = []
        for info in with_retries(ask) or with_retries(ask):
            name = info["name"].rstrip("/")
            if name != own:
                (folders if info["type"] == "directory" else files).append(name.rsplit("/", 1)[-1])
        return [name for name in files if not is_unfinished(name)], folders

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        with_retries(lambda: self._write(path, data), is_write=True)

    def _write(self, path: str, data: bytes) -> None:
        bulk, (key,) = self._bulk(path) if len(data) <= PART_BYTES else (None, ("",))
        if bulk is not None and bulk.put(key, data):
            return
        self.fs.pipe_file(path, data)
        if bulk is not None:
            bulk.failed()

    def put(self, path: str, source: Path, size: int) -> None:
        parts = {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS))} if self.is_s3 else {}
        with_retries(lambda: self.fs.put_file(str(source), path, **parts), is_write=True)
        source.unlink()

    def create(self, path: str, data: bytes) -> bool:
        """Return whether this call wrote `data` to `path`. After a refusal or a failure, the stored bytes decide."""
        problem: BaseException | None = None
        for pause in (*failures.PAUSES, None):
            try:
                self.fs.pipe_file(path, data, mode="create")
                return True
            except Exception as failed:
                if not is_refused(failed) and not is_transient(failed, is_write=True):
                    raise
                problem = failed
            there = self._content(path)
            if there is not None:
                return there == data
            if pause is not None:
                time.sleep(pause)
        assert problem is not None
        raise problem

    def _content(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError as problem:
            refuse_lost_bucket(problem)
            return None

    def remove(self, path: str) -> None:
        """A file, or everything below a folder. What the store did not remove is an error."""
        doomed = [info["name"] for info in self._listed(path)]
        if not doomed:
            doomed = [self.fs._strip_protocol(path)] if self.size(path) is not None else []
        for begin in range(0, len(doomed), DELETE_KEYS):
            some = doomed[begin : begin + DELETE_KEYS]
            with_retries(lambda some=some: self._delete(some), is_write=True)
        self.fs.invalidate_cache()

    def _delete(self, names: Sequence[str]) -> None:
        if not self.is_s3:
            for name in names:
                try:
                    self.fs.rm_file(name)
                except FileNotFoundError:
                    continue
            return
        bucket = names[0].split("/", 1)[0]
        keys = [{"Key": name.split("/", 1)[1]} for name in names]
        told = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if failed := told.get("Errors"):  # s3fs ignores these
            first = failed[0]
            kind = PermissionError if first.get("Code") == "AccessDenied" else OSError
            raise kind(errno.EIO, f"{len(failed)} files could not be removed, {first.get('Key')} first: {first.get('Message')}")

    def sweep(self, root: str) -> None:
        """Abort the uploads in parts below `root` that killed writers left."""
        self._abort(root, self.uploads(root))

    def sweep_left_behind(self, root: str) -> None:
        """Abort the uploads in parts below `root` that are too old for a writer to be at work. A key that may not list uploads
        leaves them to a lifecycle rule.
        """
        before = time.time() - OLD_UPLOAD_SECONDS
        try:
            self._abort(root, [upload for upload in self.uploads(root) if upload["Initiated"].timestamp() < before])
        except PermissionError:
            return

    def abort(self, path: str, before: float) -> None:
        """Abort the uploads of one file that were begun before a time (seconds since 1970)."""
        folder, _, name = path.rpartition("/")
        found = [upload for upload in self.uploads(folder) if upload["Key"].rsplit("/", 1)[-1] == name]
        self._abort(path, [upload for upload in found if upload["Initiated"].timestamp() < before])

    def _abort(self, url: str, uploads: list[dict[str, Any]]) -> None:
        bucket = self.fs._strip_protocol(url).split("/", 1)[0]
        for upload in uploads:
            asked = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            with_retries(partial(self.fs.call_s3, "abort_multipart_upload", **asked), is_write=True)

    def uploads(self, root: str) -> list[dict[str, Any]]:
        """Uploads in parts that were begun below `root` and neither completed nor aborted. None if the store has no such
        uploads."""
        if not self.is_s3:
            return []
        bucket, _, key = self.fs._strip_protocol(root).partition("/")
        found: list[dict[str, Any]] = []
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
        while True:
            page = with_retries(partial(self.fs.call_s3, "list_multipart_uploads", **asked))
            found += page.get("Uploads", [])
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return found
            asked |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


def _detail(info: dict[str, Any]) -> tuple[int, str, str]:
    """Size, time and ETag, as far as the server states them."""
    time = str(info.get("LastModified") or info.get("mtime") or info.get("created") or "")
    return int(info["size"] or 0), time, str(info.get("ETag", ""))
