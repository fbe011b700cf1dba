"""One output shard: byte ranges of input shards, moved as they are, with new tar headers.

Reads go through the input in its order, each range once; writes go to the place the plan gives each sample. Nothing is
decoded. Where a member's header has the plain form, the new one takes its place and nothing else changes.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import DataError, DiskFullError
from datacomp_core.resharding.plan import Positions, Rows
from datacomp_core.shards import INDEX, INDEX_SCHEMA, index_bytes
from datacomp_core.store.folder import FileStat, Folder
from datacomp_core.tar import BLOCK, TarDamageError, ending, header, split_name, walk

GAP = 4 << 10  # bytes read in vain rather than asking twice
WINDOW = 32 << 20  # bytes of one round of ranged reads
OPEN_FILES = 256

REGULAR = ord("0")


@dataclass(frozen=True)
class Copy:
    """One output shard to write: `rows` in their order, from `names` of the folder `source`.

    `record` says whether sizes and hashes of the written files are wanted: hashing costs as much as copying.
    """

    shard: str
    rows: Rows
    source: Folder
    names: tuple[str, ...]
    out: Folder
    record: Literal["files", "nothing"] = "nothing"


@dataclass(frozen=True)
class Copied:
    shard: str
    samples: int
    num_bytes: int
    files: tuple[FileStat, ...]


class _OddError(Exception):
    """A sample whose bytes change their length when its members are renamed."""


def copy_shard(job: Copy) -> Copied:
    """Write `<shard>.tar`, its index and, last, `<shard>_stats.json`. DataError if the input is not what its index says."""
    out = job.out.journaled() if job.record == "files" else job.out
    try:
        with out.writing(f"{job.shard}.tar") as path:
            offsets, lengths = _write(job, path)
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise DiskFullError(out) from problem
        raise
    index = pl.DataFrame(
        {
            "uid": (uids := uid.unpack(_packed(job.rows))),
            "key": _keys(uids, job.rows),
            "shard": pl.repeat(job.shard, len(uids), eager=True),
            "offset": offsets,
            "length": lengths,
        },
        schema=INDEX_SCHEMA,
    )
    out.write(f"{INDEX}/{job.shard}.parquet", index_bytes(index))
    out.write_json(f"{job.shard}_stats.json", {"successes": len(job.rows)})
    return Copied(job.shard, len(job.rows), int(lengths.sum()), tuple(out.journal.values()))


def _packed(rows: Rows) -> uid.Uids:
    packed = np.empty(len(rows), uid.DTYPE)
    packed["f0"], packed["f1"] = rows["f0"], rows["f1"]
    return packed


def _keys(uids: pl.Series, rows: Rows) -> pl.Series:
    return uids + "-" + pl.Series(rows["copy"].astype(np.int64)).cast(pl.String)


def _write(job: Copy, path: Path) -> tuple[Positions, Positions]:
    """Write the tar at `path`; the offset and length of each sample in it."""
    keys = _keys(uid.unpack(_packed(job.rows)), job.rows).to_list()
    lengths = job.rows["length"].copy()
    offsets = np.cumsum(lengths) - lengths
    try:
        _write_in_place(job, path, keys, offsets)
    except _OddError:
        lengths = _write_in_turn(job, path, keys)
        offsets = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    with path.open("r+b") as file:
        file.seek(total)
        file.write(ending(total))
        file.truncate()
    return offsets, lengths


def _write_in_place(job: Copy, path: Path, keys: list[str], offsets: Positions) -> None:
    """In the order of the input, each sample to the offset it will have if all lengths stay: nearly always they do."""
    by_place = np.lexsort((job.rows["copy"], job.rows["offset"], job.rows["shard"]))
    places = offsets.tolist()
    with path.open("wb") as file:
        number = file.fileno()
        for row, data in _read(job, by_place):
            if not reframe(data, keys[row]):
                raise _OddError
            _write_all(number, data, places[row])


def _write_in_turn(job: Copy, path: Path, keys: list[str]) -> Positions:
    """In the order of the output, each sample as long as it turns out to be."""
    lengths = np.empty(len(keys), np.int64)
    with path.open("wb") as file:
        for row, data in _read(job, np.arange(len(keys))):
            if reframe(data, keys[row]):
                lengths[row] = file.write(data)
            else:
                lengths[row] = file.write(_framed_anew(bytes(data), keys[row], job, row))
    return lengths


def _write_all(number: int, data: memoryview, place: int) -> None:
    while (written := os.pwrite(number, data, place)) < len(data):
        data, place = data[written:], place + written


def _framed_anew(data: bytes, key: str, job: Copy, row: int) -> bytes:
    """The sample with new headers, whatever the old ones look like; what lies between its members is left out."""
    file, pieces, stems = io.BytesIO(data), list[bytes](), set[str]()
    try:
        for member in walk(file, len(data), whole=False):
            stem, extension = split_name(member.name)
            if stem:
                stems.add(stem)
                content = data[member.data : member.data + member.size]
                pieces += (header(f"{key}.{extension}", member.size), content, bytes(-member.size % BLOCK))
    except TarDamageError as problem:
        raise _stale(job, row, problem.reason) from problem
    if len(stems) != 1:
        raise _stale(job, row, f"it holds {len(stems)} samples")
    return b"".join(pieces)


def _stale(job: Copy, row: int, reason: str) -> DataError:
    found = job.rows[row]
    return DataError(
        f"Shard {job.source.at(job.names[found['shard']])}.tar is not the one its index describes, at bytes {found['offset']} to "
        f"{found['offset'] + found['length']}: {reason}; index it again or download it anew."
    )


def reframe(data: memoryview, key: str) -> bool:
    """Rename the members of the sample in `data` to `<key>.<extension>`, in place: names and checksums, nothing else.

    False, and nothing is touched, where that does not suffice: extended headers, other things between the members, members
    of two samples, or damage.
    """
    position, end, stem, stem_sum = 0, len(data), b"", 0
    fresh = f"{key}.".encode()
    fresh_sum = sum(fresh)
    changes: list[tuple[int, bytes, bytes]] = []
    while position < end:
        block = bytes(data[position : position + BLOCK])
        if len(block) < BLOCK or block[156] != REGULAR or block[345] or block[257:262] != b"ustar":
            return False
        name = block[: block.find(0, 0, 100)] if block[99] == 0 else block[:100]
        dot = name.find(b".", name.rfind(b"/") + 1) + 1
        size, checksum = block[124:135], block[148:154]
        if not (size.isdigit() and checksum.isdigit()):
            return False
        if name[:dot] != stem:
            if stem or dot < 2 or name.startswith(b"__"):
                return False
            stem = name[:dot]
            stem_sum = sum(stem)
        extension, change = _lowered(name[dot:])
        if len(fresh) + len(extension) > 100:
            return False
        renamed = int(checksum, 8) - stem_sum + fresh_sum + change
        changes.append((position, (fresh + extension).ljust(100, b"\0"), b"%06o" % renamed))
        position += BLOCK + -(-int(size, 8) // BLOCK) * BLOCK
    if position != end:
        return False
    for place, name, checksum in changes:
        data[place : place + 100] = name
        data[place + 148 : place + 154] = checksum
    return True


@lru_cache(1024)
def _lowered(extension: bytes) -> tuple[bytes, int]:
    """An extension in lower case, and what that adds to a header's checksum."""
    lower = extension.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
    return lower, sum(lower) - sum(extension)


# Reading -------------------------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Neighbouring ranges of one input shard that are read together."""

    shard: int
    start: int
    end: int
    rows: list[int]


def _groups(rows: Rows, turns: Positions) -> Iterator[_Group]:
    group = _Group(-1, 0, 0, [])
    for row, shard, start, length in zip(
        turns.tolist(), *(rows[name][turns].tolist() for name in ("shard", "offset", "length")), strict=True
    ):
        near = shard == group.shard and group.start <= start <= group.end + GAP and start + length - group.start <= WINDOW
        if near:
            group.rows.append(row)
            group = group._replace(end=max(group.end, start + length))
            continue
        if group.rows:
            yield group
        group = _Group(shard, start, start + length, [row])
    if group.rows:
        yield group


def _read(job: Copy, turns: Positions) -> Iterator[tuple[int, memoryview]]:
    """Each row with its bytes, in the order of `turns`; the bytes may be changed and hold until the next is asked for."""
    offsets, lengths = job.rows["offset"].tolist(), job.rows["length"].tolist()
    fetch = _fetch_local if job.source.is_local else _fetch_remote
    for group, data in fetch(job, _groups(job.rows, turns)):
        for row in group.rows:
            begin = offsets[row] - group.start
            yield row, data[begin : begin + lengths[row]]


def _fetch_local(job: Copy, groups: Iterator[_Group]) -> Iterator[tuple[_Group, memoryview]]:
    buffer = memoryview(bytearray(1 << 20))
    with ExitStack() as stack:
        opened: dict[int, int] = {}
        for group in groups:
            if group.shard not in opened:
                if len(opened) >= OPEN_FILES:
                    stack.close()
                    opened.clear()
                file = stack.enter_context(job.source.open(f"{job.names[group.shard]}.tar"))
                opened[group.shard] = file.fileno()
            size = group.end - group.start
            if size > len(buffer):
                buffer = memoryview(bytearray(size))
            if os.preadv(opened[group.shard], [buffer[:size]], group.start) != size:
                raise _stale(job, group.rows[0], "it is truncated")
            yield group, buffer[:size]


def _fetch_remote(job: Copy, groups: Iterator[_Group]) -> Iterator[tuple[_Group, memoryview]]:
    while window := list(_until_full(groups)):
        ranges = [(f"{job.names[group.shard]}.tar", group.start, group.end) for group in window]
        for group, data in zip(window, job.source.read_ranges(ranges), strict=True):
            yield group, memoryview(bytearray(data))


def _until_full(groups: Iterator[_Group]) -> Iterator[_Group]:
    size = 0
    for group in groups:
        yield group
        size += group.end - group.start
        if size >= WINDOW:
            return
