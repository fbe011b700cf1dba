"""The members of a bundle's tar, read strictly: plain files with plain headers, nothing that could grow, nothing in memory.

Python's tarfile reads extended headers of any size into memory and unfolds sparse files. This accepts what `write_bundle`
and the common tar programs write for plain files (ustar, and pax headers that carry a long name or a size), and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

from datacomp_core.errors import DataError

BLOCK = 512
MAX_EXTENDED = 8 << 10
REGULAR, EXTENDED = b"0\0", b"x"
KNOWN = frozenset(("path", "size", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname"))
END = bytes(BLOCK)


class TarMember(NamedTuple):
    """A member's name and size in bytes."""

    name: str
    size: int


class TarReader:
    """Iterate over the headers; before the next one the member's bytes may be read with `read`."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self._left, self._padding = file, 0, 0

    def __iter__(self) -> Iterator[TarMember]:
        while (block := self._block()) != END:
            told: dict[str, str] = {}
            if block[156:157] == EXTENDED:
                told = self._extended(block)
                block = self._block()
            header = _header(block, told)
            self._left, self._padding = header.size, -header.size % BLOCK
            yield header
            while self.read(1 << 20):
                pass
            if len(self.file.read(self._padding)) != self._padding:
                raise DataError("The bundle is not a complete tar archive: it ends within a file.")
        while data := self.file.read(1 << 20):
            if data.strip(b"\0"):
                raise DataError("The bundle has data after the end of its tar archive.")

    def read(self, size: int) -> bytes:
        """Bytes of the current member, none at its end."""
        data = self.file.read(min(size, self._left))
        if not data and self._left:
            raise DataError("The bundle is not a complete tar archive: it ends within a file.")
        self._left -= len(data)
        return data

    def _block(self) -> bytes:
        block = self.file.read(BLOCK)
        if len(block) != BLOCK:
            raise DataError("The bundle is not a complete tar archive: its end is missing.")
        return block

    def _extended(self, block: bytes) -> dict[str, str]:
        size = _size(block)
        if size > MAX_EXTENDED:
            raise DataError(f"The bundle has an extended header of {size:,} bytes; the limit is {MAX_EXTENDED:,}.")
        _check(block)
        data = self.file.read(size)
        self.file.read(-size % BLOCK)
        return _records(data)


def _header(block: bytes, told: dict[str, str]) -> TarMember:
    _check(block)
    if block[156:157] not in (REGULAR[:1], REGULAR[1:]):
        raise DataError(f"The bundle has a member of the type {block[156:157]!r}: a bundle may contain only plain files.")
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    name = told.get("path") or (f"{prefix}/" if prefix else "") + _text(block[:100])
    given = told.get("size", "")
    if given and not (given.isascii() and given.isdigit() and len(given) < 20):
        raise DataError("The bundle has an extended header whose size is not a number.")
    return TarMember(name, int(given) if given else _size(block))


def _check(block: bytes) -> None:
    """Return the checksum of a header."""
    if sum(block[:148]) + sum(block[156:]) + 8 * 32 != _number(block[148:156]):
        raise DataError("The bundle is not a tar archive: a header's checksum is wrong.")


def _size(block: bytes) -> int:
    return _number(block[124:136])


def _number(field: bytes) -> int:
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise DataError("The bundle is not a plain tar archive: a header has a number that is not octal.")
    return int(text or b"0", 8)


def _text(field: bytes) -> str:
    try:
        return field.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError("The bundle has a name that is not UTF-8.") from problem


def _records(data: bytes) -> dict[str, str]:
    """`<length> <key>=<value>\\n`, as pax has them."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length[:6]) <= len(data):
            raise DataError("The bundle has an extended header that is damaged.")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or _text(key) not in KNOWN:
            raise DataError(f"The bundle has an extended header with {key[:40]!r}, which is not allowed in a bundle.")
        found[_text(key)] = _text(value)
    return found
