"""Tar archives as bytes: a walk over the members of one, and the header of a new one.

The walk reads headers only, understands ustar, GNU long names and pax, and stops with `TarDamageError` at the first byte
that is not as it should be. Headers written here are fixed but for name and size, so equal content gives equal archives.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from datacomp_core.errors import DataError

BLOCK = 512
END = bytes(2 * BLOCK)
RECORD = 20 * BLOCK  # archives are padded to a multiple of this, as tar and tarfile do
REGULAR = (b"0", b"\0", b"7")
LONG_NAME, PAX = b"L", b"x"
EXTENDED = (LONG_NAME, b"K", PAX, b"g")
MAX_EXTENDED = 1 << 20
MAX_PLAIN_SIZE = 8**11

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_ZERO = bytes(BLOCK)


class TarDamageError(DataError):
    """An archive is not whole: `offset` is the first byte that cannot be trusted."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.offset, self.reason = offset, reason


class Member(NamedTuple):
    """One file of an archive: bytes `start` to `end` hold its headers, data and padding; its data begins at `data`."""

    name: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        return self.data + padded(self.size)


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def split_name(name: str) -> tuple[str, str]:
    """A member's key and extension as webdataset splits them (at the first dot of the last name); ("", "") if it has none."""
    found = _NAME.match(name)
    if found is None or _META.match(name):
        return "", ""
    return found.group(1), found.group(2).lower()


def walk(file: IO[bytes], size: int, *, whole: bool = True) -> Iterator[Member]:
    """The regular members of an archive of `size` bytes, in order, leaving the file anywhere.

    With `whole` false the bytes are a piece of an archive, cut between members, so that no end mark is asked for.
    """
    position, start, name, override = 0, 0, "", -1
    while True:
        block = _read(file, position, BLOCK) if position < size else b""
        if not block or block == _ZERO:
            if not block and whole:
                raise TarDamageError(position, "it ends without its end mark")
            if start != position:
                raise TarDamageError(start, "a long name is not followed by its file")
            return
        length, kind = _size(block, position), block[156:157]
        data = position + BLOCK
        if kind in EXTENDED:
            if length > MAX_EXTENDED:
                raise TarDamageError(position, "an extended header is absurdly long")
            name, override = _extended(kind, _read(file, data, length), name, override)
            position = data + padded(length)
            continue
        length = override if override >= 0 else length
        member = Member(name or _plain_name(block), start, data, length)
        if data + length > size:
            raise TarDamageError(start, "it is truncated")
        if kind in REGULAR:
            yield member
        position = start = member.end
        name, override = "", -1


def header(name: str, size: int) -> bytes:
    """The header blocks of a regular file: owner, time and mode are fixed."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > 100 or size >= MAX_PLAIN_SIZE:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    length = b"%011o" % size
    checksum = _FIXED_SUM + sum(encoded) + sum(length)
    return b"".join((encoded, _ZERO[: 100 - len(encoded)], _OWNER, length, _TIME, b"%06o\0 " % checksum, _REST))


def ending(position: int) -> bytes:
    """What closes an archive whose last member ends at `position`."""
    return END + bytes(-(position + len(END)) % RECORD)


# ---------------------------------------------------------------------------------------------------------------------

_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0" + b"00000000000" + b"\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(BLOCK - 345)
_FIXED_SUM = sum(_OWNER) + sum(_TIME) + sum(b" " * 8) + sum(_REST)


def _read(file: IO[bytes], position: int, length: int) -> bytes:
    file.seek(position)
    data = file.read(length)
    if len(data) != length:
        raise TarDamageError(position, "it is truncated")
    return data


def _size(block: bytes, position: int) -> int:
    """The size in a header whose checksum is right."""
    try:
        stated = int(block[148:156].strip(b"\0 "), 8)
        field = block[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise TarDamageError(position, "a header is damaged") from None
    if stated != sum(block) - sum(block[148:156]) + 8 * 32:
        raise TarDamageError(position, "a header's checksum is wrong")
    return size


def _plain_name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _extended(kind: bytes, data: bytes, name: str, size: int) -> tuple[str, int]:
    """Name and size after an extended header; what it does not state stays as it was."""
    if kind == LONG_NAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), size
    if kind != PAX:
        return name, size
    fields: dict[bytes, bytes] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(data):
            break  # padding
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        fields[key] = value
        data = data[int(length) :]
    if b"path" in fields:
        name = fields[b"path"].decode("utf-8", "surrogateescape")
    return name, int(fields.get(b"size", b"%d" % size))
