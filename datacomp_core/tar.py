"""Tar archives as bytes: a walk over the members of one, and the header of a new one.

The walk reads headers only, understands ustar, GNU long names and pax, and stops with `TarDamageError` at the first byte
that is not as it should be. What it cannot give whole (links, sparse files, parts of a volume) is an error too, never left
out in silence. Headers written here are fixed but for name and size, so equal content gives equal archives.
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
NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: a size in their header counts no bytes
LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
MAX_EXTENDED = 1 << 20
MAX_PLAIN_SIZE = 8**11
AT_ONCE = 1 << 20
DOWNLOAD_AGAIN = "download it again"

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_ZERO = bytes(BLOCK)
_OTHERS = {
    b"\x1f\x8b": ("gzip", "unpack it with `gunzip`"),
    b"BZh": ("bzip2", "unpack it with `bunzip2`"),
    b"\xfd7zXZ\0": ("xz", "unpack it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it with `unzstd`"),
    b"PK\x03\x04": ("zip", "unpack it and pack its files with `tar`"),
}


class TarDamageError(DataError):
    """An archive is not whole, or not to be read: `offset` is the first byte that cannot be trusted, `advice` what to do."""

    def __init__(self, offset: int, reason: str, advice: str = DOWNLOAD_AGAIN) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.offset, self.reason, self.advice = offset, reason, advice


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


def printable(name: str) -> str:
    r"""A member's name as text: bytes that are not UTF-8 are written out (`\xff`)."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def split_name(name: str) -> tuple[str, str]:
    """A member's key and extension as webdataset splits them (at the first dot of the last name); ("", "") if it has none."""
    found = _NAME.match(name)
    if found is None or _META.match(name):
        return "", ""
    return printable(found.group(1)), printable(found.group(2).lower())


class _Extended(NamedTuple):
    """The fields from extended headers for the member that follows them."""

    name: str = ""
    size: int = -1
    is_sparse: bool = False


def walk(file: IO[bytes], size: int, *, whole: bool = True) -> Iterator[Member]:
    """The regular members of an archive of `size` bytes, in order, leaving the file anywhere.

    With `whole` false the bytes are a piece of an archive, cut between members, so that no end mark is asked for. What
    follows an end mark is looked at: anything but the zeros that tar pads with is damage.
    """
    position, start, told = 0, 0, _Extended()
    while True:
        block = _block(file, position, size) if position < size else b""
        if not block or block == _ZERO:
            _ended(file, position, start, size, whole=whole, is_marked=bool(block))
            return
        length, kind = _size(block, position), block[156:157]
        data = position + BLOCK
        if kind in EXTENDED:
            if length > MAX_EXTENDED:
                raise TarDamageError(position, "an extended header is absurdly long")
            told = _extended(kind, _read(file, data, length), told, position)
            position = data + padded(length)
            continue
        name = told.name or _plain_name(block)
        length = told.size if told.size >= 0 else length
        if kind in NO_DATA or (kind == b"\0" and name.endswith("/")):
            length, kind = 0, b"5" if kind == b"\0" else kind
        if data + length > size:
            raise TarDamageError(start, "it is truncated")
        _refuse(kind, name, start, is_sparse=told.is_sparse)
        member = Member(name, start, data, length)
        if kind in REGULAR:
            yield member
        position = start = member.end
        told = _Extended()


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
    """Return the bytes that close an archive whose last member ends at `position`."""
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


def _block(file: IO[bytes], position: int, size: int) -> bytes:
    if position + BLOCK > size:
        raise _not_a_header(_read(file, position, size - position), position, "it is truncated")
    return _read(file, position, BLOCK)


def _ended(file: IO[bytes], position: int, start: int, size: int, *, whole: bool, is_marked: bool) -> None:
    """See that an archive that ends at `position` ends there, with all that it should have."""
    if not is_marked and whole:
        raise TarDamageError(position, "it ends without its end mark")
    if start != position:
        raise TarDamageError(start, "a long name is not followed by its file")
    if not is_marked:
        return
    if not whole:
        raise TarDamageError(position, "zeros where a file header should be")
    at = position
    while at < size:
        some = _read(file, at, min(AT_ONCE, size - at))
        if some.count(0) != len(some):
            at += len(some) - len(some.lstrip(b"\0"))
            raise TarDamageError(
                at,
                f"its end mark (byte {position}) is followed by other bytes, which tar would not read,",
                "download it again, or unpack its parts (`tar --ignore-zeros`) and pack them as one",
            )
        at += len(some)
    most = -(-(position + len(END)) // RECORD) * RECORD
    if size > most:
        raise TarDamageError(
            position,
            f"zeros fill it from there to its end (byte {size}), where tar would end by byte {most},",
            "download it again: a part of it is missing (or pack it without a blocking factor)",
        )


def _refuse(kind: bytes, name: str, start: int, *, is_sparse: bool) -> None:
    """TarDamageError for a member that belongs to a sample and is not there as plain bytes."""
    if kind in LINKS and split_name(name)[0]:
        raise TarDamageError(
            start, f"its member {printable(name)} is {LINKS[kind]}", "pack it with `tar --dereference --hard-dereference`"
        )
    if kind == b"S" or is_sparse:
        raise TarDamageError(start, f"its member {printable(name)} is a sparse file", "pack it without `--sparse`")
    if kind == b"M":
        raise TarDamageError(start, "it is a part of a multi-volume archive", "pack it as one")


def _size(block: bytes, position: int) -> int:
    """The size in a header whose checksum is right."""
    try:
        stated = int(block[148:156].strip(b"\0 "), 8)
        field = block[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise _not_a_header(block, position, "a header is damaged") from None
    blank = 8 * 32 - sum(block[148:156])
    if stated != sum(block) + blank and stated != _signed_sum(block):
        raise _not_a_header(block, position, "a header's checksum is wrong")
    if size < 0:
        raise TarDamageError(position, "a header states a negative size")
    return size


def _signed_sum(block: bytes) -> int:
    """The checksum as some old tars made it, over signed bytes."""
    return sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32


def _not_a_header(block: bytes, position: int, reason: str) -> TarDamageError:
    for magic, (what, advice) in _OTHERS.items() if not position else ():
        if block.startswith(magic):
            return TarDamageError(0, f"it is not a plain tar but a {what} file", advice)
    return TarDamageError(position, reason)


def _plain_name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _extended(kind: bytes, data: bytes, told: _Extended, position: int) -> _Extended:
    """Return the fields after an extended header; fields that it does not state are unchanged."""
    if kind == LONG_NAME:
        return told._replace(name=data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))
    if kind != PAX:
        return told
    fields = _records(data)
    if b"path" in fields:
        told = told._replace(name=fields[b"path"].decode("utf-8", "surrogateescape"))
    if b"size" in fields:
        if not fields[b"size"].isdigit() or len(fields[b"size"]) > 20:
            raise TarDamageError(position, "an extended header states a size that is not a number")
        told = told._replace(size=int(fields[b"size"]))
    return told._replace(is_sparse=told.is_sparse or any(name.startswith(b"GNU.sparse.") for name in fields))


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = data[at:space] if space > at else b""
        stop = at + int(length) if length.isdigit() else at
        if not space + 1 < stop <= len(data):
            break  # padding
        key, _, value = data[space + 1 : stop - 1].partition(b"=")
        fields[key] = value
        at = stop
    return fields
