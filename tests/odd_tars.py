"""Tars as the world has them: each a fault of public threads, rebuilt small. `tarfile` writes them, nothing of ours."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable

import numpy as np
from PIL import Image

Members = list[tuple[str, bytes]]
BLOCK = 512


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A small picture; JPEGs are padded to one length, so that samples can change places."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue().ljust(3000, b"\0") if kind == "JPEG" else buffer.getvalue()


def uid_of(number: int) -> str:
    return f"{number:032x}"


def sample(number: int, *, key: str | None = None, uids: bool = True, text: str | None = None) -> Members:
    """One sample as img2dataset leaves it."""
    name = f"{number:09d}" if key is None else key
    caption = f"thing {number:03d}" if text is None else text
    about = {"url": f"http://h/{number:04d}.jpg", "caption": caption} | ({"uid": uid_of(number)} if uids else {})
    return [(f"{name}.jpg", picture(number)), (f"{name}.json", json.dumps(about).encode()), (f"{name}.txt", caption.encode())]


def samples(numbers: range, *, uids: bool = True) -> Members:
    return [member for number in numbers for member in sample(number, uids=uids)]


def pack(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            add(archive, name, content)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in more.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content) if content else None)


def with_member(name: str, kind: bytes, *, content: bytes = b"", **more: object) -> bytes:
    """Two whole samples, then a third whose picture is such a member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for whole, data in samples(range(2)):
            add(archive, whole, data)
        add(archive, name, content, kind, **more)
        for whole, data in sample(2)[1:]:
            add(archive, whole, data)
    return buffer.getvalue()


def unpadded(data: bytes) -> bytes:
    """An archive without its end mark."""
    return data[: len(data.rstrip(b"\0")) + -len(data.rstrip(b"\0")) % BLOCK]


def zeroed(data: bytes, begin: int, end: int) -> bytes:
    return data[:begin] + bytes(end - begin) + data[end:]


def second_start(data: bytes) -> int:
    """Where the second sample begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return next(info.offset for info in archive if info.name.startswith(f"{1:09d}"))


def sparse() -> bytes:
    """A pax sparse member, as `tar --sparse --format=pax` writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in samples(range(2)):
            add(archive, name, data)
        headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000", "GNU.sparse.name": "2.jpg"}
        add(archive, "GNUSparseFile.0/2.jpg", b"0\n".ljust(512, b"\0"), pax_headers=headers)
    return buffer.getvalue()


def negative_size() -> bytes:
    """A header whose checksum is right and whose size leads back to itself."""
    data = bytearray(pack(samples(range(2))))
    data[124:136] = b"-0000001000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:BLOCK])
    return bytes(data)


def pax(**records: bytes) -> bytes:
    """A sample whose pax header states these records."""
    body = b""
    for name, value in records.items():
        record = b" " + name.encode() + b"=" + value + b"\n"
        length = len(record) + len(str(len(record)))
        body += str(length + (len(str(length)) > len(str(len(record))))).encode() + record
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "x", body, tarfile.XHDTYPE)
        for name, data in sample(0):
            add(archive, name, data)
    return buffer.getvalue()


by_kind = sorted(samples(range(3)), key=lambda member: member[0].rpartition(".")[2])
folders = [(f"{name.rpartition('.')[2]}/{name}", data) for name, data in by_kind]
whole = pack(samples(range(4)))
DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "all pictures, then all json, then all captions": (lambda: pack(by_kind), "sample '000000000' are not adjacent"),
    "a folder for each kind": (lambda: pack(folders), "sample '000000000' are in different folders"),
    "a late caption": (lambda: pack([*sample(0)[:2], *sample(1), sample(0)[2]]), "'000000000' are not adjacent: its txt"),
    "a zero block inside": (
        lambda: zeroed(whole, second_start(whole), second_start(whole) + BLOCK),
        "is followed by other bytes",
    ),
    "two end marks inside": (
        lambda: zeroed(whole, second_start(whole), second_start(whole) + 1024),
        "is followed by other bytes",
    ),
    "zeros instead of the second half": (lambda: zeroed(whole, second_start(whole), len(whole)), "zeros fill it from there"),
    "two archives as one": (lambda: whole + pack(samples(range(4, 6))), "is followed by other bytes"),
    "a megabyte of zeros behind": (lambda: whole + bytes(1 << 20), "zeros fill it from there"),
    "no end mark": (lambda: unpadded(whole), "it ends without its end mark"),
    "gzip": (lambda: gzip.compress(whole), "it is not a plain tar but a gzip file"),
    "a short gzip": (lambda: gzip.compress(b""), "it is not a plain tar but a gzip file"),
    "bzip2": (lambda: bz2.compress(whole), "it is not a plain tar but a bzip2 file"),
    "xz": (lambda: lzma.compress(whole), "it is not a plain tar but a xz file"),
    "a page of html": (lambda: b"<!doctype html>".ljust(2000), "a header is damaged at byte 0"),
    "nothing": (lambda: b"", "it ends without its end mark at byte 0"),
    "a hard link": (
        lambda: with_member("000000002.jpg", tarfile.LNKTYPE, linkname="000000000.jpg"),
        "000000002.jpg is a hard link",
    ),
    "a symbolic link": (lambda: with_member("000000002.jpg", tarfile.SYMTYPE, linkname="a"), "000000002.jpg is a symbolic link"),
    "GNU sparse": (lambda: with_member("000000002.jpg", tarfile.GNUTYPE_SPARSE, content=b"x" * 512), "is a sparse file"),
    "pax sparse": (sparse, "is a sparse file"),
    "a part of a volume": (lambda: with_member("000000002.jpg", b"M", content=b"x" * 512), "multi-volume"),
    "a negative size": (negative_size, "a negative size"),
    "a pax size that is none": (lambda: pax(size=b"-512"), "a size that is not a number"),
    "a pax size beyond the end": (lambda: pax(size=b"9" * 15), "it is truncated"),
}
"""What is damage: the bytes, and what must be said of them."""

READ: dict[str, tuple[Callable[[], bytes], int]] = {
    "a folder entry with a size": (lambda: with_member("d", tarfile.DIRTYPE, size=4096), 3),
    "a device with a size": (lambda: with_member("tty", tarfile.CHRTYPE, size=4096), 3),
    "names that are not UTF-8": (lambda: pack(sample(0, key="caf\udce9") + sample(1)), 2),
    "json that is a list": (lambda: pack([("a.jpg", picture(1)), ("a.json", b"[1]"), ("a.txt", b"a"), *sample(1)]), 2),
    "json that is a number": (lambda: pack([("a.jpg", picture(1)), ("a.json", b"7"), ("a.txt", b"a"), *sample(1)]), 2),
    "deep json": (lambda: pack([("a.jpg", picture(1)), ("a.json", b"[" * 100_000), ("a.txt", b"a"), *sample(1)]), 2),
    "another tool's end": (lambda: unpadded(whole) + bytes(1024), 4),
    "a name of 300 letters": (lambda: pack(sample(0, key="k" * 300), tarfile.GNU_FORMAT), 1),
    "upper case": (lambda: pack([(name.replace(".jpg", ".JPG"), data) for name, data in samples(range(3))]), 3),
    "folders of whole samples": (lambda: pack([m for n in range(2) for m in sample(n, key=f"f{n}/a")]), 2),
    "pictures alone in folders": (lambda: pack([("a/1.jpg", picture(1)), ("b/1.png", picture(2, "PNG"))]), 2),
}
"""What is read, and how many samples it has."""
