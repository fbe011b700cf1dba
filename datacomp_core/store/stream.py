"""Reads a file of a bucket as a stream: in order or by seeking, in ranges with checked length, with one-sentence errors."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datacomp_core.store.folder import Folder

BLOCK_BYTES = 8 << 20


class RangeStream(io.RawIOBase):
    """The `size` bytes of a file of a folder. Wrap it in a `BufferedReader` of `BLOCK_BYTES`."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        super().__init__()
        self._folder, self._name, self._size, self._at = folder, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._folder.read_range(self._name, self._at, end)
        buffer[: len(data)] = data
        self._at = end
        return len(data)
