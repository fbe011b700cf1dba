"""Webdataset tars with the same bytes wherever they are written: USTAR, no owner, no clock."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import NamedTuple


class Sample(NamedTuple):
    """Key, and its members by extension, in order."""

    key: str
    members: dict[str, bytes]


class Extent(NamedTuple):
    """Where a sample's members lie in the tar, headers and padding included."""

    offset: int
    length: int


def tar(samples: Iterable[Sample]) -> tuple[bytes, list[Extent]]:
    """One shard's bytes, and the extent of each sample in it."""
    buffer = io.BytesIO()
    extents: list[Extent] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            start = archive.offset
            for extension, data in sample.members.items():
                member = tarfile.TarInfo(f"{sample.key}.{extension}")
                member.size, member.mode = len(data), 0o444
                archive.addfile(member, io.BytesIO(data))
            extents.append(Extent(start, archive.offset - start))
    return buffer.getvalue(), extents
