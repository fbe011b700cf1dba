"""Webdataset shards and their index: the common ground of those who write shards and those who read them.

A shard is `<8 digits>.tar` with members `<key>.<extension>`; all members of a sample lie side by side. Its index,
`index/<8 digits>.parquet`, has one row a sample, in order: the byte range that holds the sample's members whole, headers
and padding included, so that a reader fetches one range and a writer copies it. The index of a view has the same form and points
into the tars of another folder (`tars_of`): its column `shard` names a tar there.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import polars as pl

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError
from datacomp_core.store import FileStat, Folder, Store
from datacomp_core.tar import BLOCK, Member, TarDamageError, ending, header, split_name, walk

INDEX = "index"
LEDGER = "ledger"
TAKEN_DOWN = "taken_down"  # a ledger's reason for a sample that was there and was removed on demand
INDEX_SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "key": pl.String,
        "shard": pl.String,
        "offset": pl.Int64,
        "length": pl.Int64,
    }
)
READ_AHEAD = 8 << 20
GAP = 64 << 10

_UID_KEY = re.compile(r"([0-9a-f]{32})(?:-\d+)?$")


def shard_name(number: int) -> str:
    """The reference's naming: eight digits."""
    return f"{number:08d}"


def shard_names(folder: Folder) -> list[str]:
    """Names of the shards (without `.tar`) directly in a folder, sorted. DataError if there are none."""
    names = [name.removesuffix(".tar") for name in folder.files(".tar") if "/" not in name]
    if not names:
        raise DataError(f"{folder} has no shards: a folder of webdataset tars is wanted.")
    return names


# The index -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Indexed:
    """The samples of a shard in order (INDEX_SCHEMA; `uid` is null where none can be told), and what is wrong with it.

    `damage` is empty for a whole shard; else it says what is wrong and at which byte, and the rows are the samples before.
    """

    shard: str
    rows: pl.DataFrame
    damage: str = ""

    def whole(self) -> pl.DataFrame:
        """The rows. DataError if the shard is damaged."""
        if self.damage:
            raise DataError(f"Shard {self.shard}.tar is damaged: {self.damage}; download it again.")
        return self.rows


def index_tar(file: IO[bytes], shard: str) -> Indexed:
    """Walk a seekable tar once, reading headers and json members only.

    A sample's uid is the `uid` of its json member, else its key if that is `<uid>` or `<uid>-<copy>`. Members are grouped
    as webdataset does: neighbours with one key; a repeated extension begins a new sample, as in the reference's resharder.
    """
    rows = _Rows(shard)
    size = file.seek(0, io.SEEK_END)
    damage = ""
    try:
        for member in walk(file, size):
            rows.add(member, file)
        rows.close()
    except TarDamageError as problem:
        damage = f"{problem.reason} at byte {problem.offset}"
    return Indexed(shard, rows.frame(), damage)


def index_shard(folder: Folder, shard: str) -> Indexed:
    """`index_tar` of `<shard>.tar` in a folder. DataError if it is not there."""
    with folder.open(f"{shard}.tar") as file:
        return index_tar(file, shard)


def tars_of(store: Store, shards: ShardSet) -> Folder:
    """Where the tars of a shard set lie: in its own folder, or where a view points to."""
    return store.folder(shards.model_copy(update={"data": shards.tars}) if shards.tars else shards)


def index_names(folder: Folder) -> list[str]:
    """Names of the shards that have an index, sorted: those of a view."""
    return [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]


def index_bytes(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def write_index(out: Folder, shard: str, rows: pl.DataFrame) -> FileStat:
    """Put `index/<shard>.parquet` into the folder of the shards."""
    return out.write(f"{INDEX}/{shard}.parquet", index_bytes(rows.select(INDEX_SCHEMA.names()).cast(INDEX_SCHEMA)))


def read_index(folder: Folder, shard: str) -> pl.DataFrame:
    """A shard's index. DataError if it is missing or is none."""
    data = folder.read(f"{INDEX}/{shard}.parquet")
    try:
        return pl.read_parquet(io.BytesIO(data)).select(INDEX_SCHEMA.names()).cast(INDEX_SCHEMA)
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{folder.at(f'{INDEX}/{shard}.parquet')} is not a shard index: {problem}") from problem


class _Rows:
    """Gathers members into samples."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names()}
        self.key, self.uid, self.start, self.end = "", None, 0, 0
        self.extensions: set[str] = set()

    def add(self, member: Member, file: IO[bytes]) -> None:
        key, extension = split_name(member.name)
        if not key:
            return
        if key != self.key or extension in self.extensions:
            self.close()
            self.key, self.start, self.uid = key, member.start, _uid_of_key(key)
        self.extensions.add(extension)
        self.end = member.end
        if extension == "json":
            file.seek(member.data)
            self.uid = _uid_of_json(file.read(member.size)) or self.uid

    def close(self) -> None:
        if self.extensions:
            row = (self.uid, self.key, self.shard, self.start, self.end - self.start)
            for name, value in zip(INDEX_SCHEMA.names(), row, strict=True):
                self.columns[name].append(value)
        self.key, self.extensions = "", set()

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.columns, schema=INDEX_SCHEMA)


def _uid_of_key(key: str) -> str | None:
    found = _UID_KEY.fullmatch(key.rsplit("/", 1)[-1])
    return found.group(1) if found else None


def _uid_of_json(data: bytes) -> str | None:
    try:
        uid = json.loads(data)["uid"]
    except (ValueError, KeyError, TypeError):
        return None
    return uid if isinstance(uid, str) and uid else None


# Samples -------------------------------------------------------------------------------------------------------------


def parse_sample(data: bytes) -> dict[str, bytes]:
    """The members of one sample from its byte range: extension (lower case) -> content. DataError if they are damaged."""
    file = io.BytesIO(data)
    members: dict[str, bytes] = {}
    for member in walk(file, len(data), whole=False):
        key, extension = split_name(member.name)
        if key:
            members[extension] = data[member.data : member.data + member.size]
    return members


def read_samples(folder: Folder, rows: pl.DataFrame) -> Iterator[tuple[str, dict[str, bytes]]]:
    """`(uid, members)` for index rows of one shard that are in order of offset."""
    yield from zip(rows["uid"].to_list(), read_members(folder, rows), strict=True)


def read_members(folder: Folder, rows: pl.DataFrame) -> Iterator[dict[str, bytes]]:
    """Members of each of some index rows (shard, offset, length) of one shard, which are in order of offset.

    Neighbouring ranges are read together; at most about READ_AHEAD bytes are held. DataError if the shard is missing, shorter
    than its index says, or damaged.
    """
    if rows.is_empty():
        return
    name = f"{rows['shard'][0]}.tar"
    offsets, lengths = rows["offset"].to_list(), rows["length"].to_list()
    first = 0
    while first < len(offsets):
        last, end = first, offsets[first] + lengths[first]
        while last + 1 < len(offsets) and offsets[last + 1] - end <= GAP and end - offsets[first] < READ_AHEAD:
            last += 1
            end = offsets[last] + lengths[last]
        data = memoryview(folder.read_range(name, offsets[first], end))
        for row in range(first, last + 1):
            begin = offsets[row] - offsets[first]
            try:
                yield parse_sample(bytes(data[begin : begin + lengths[row]]))
            except TarDamageError as problem:
                raise DataError(
                    f"Shard {folder.at(name)} is not the one its index describes: {problem.reason} at byte "
                    f"{offsets[row] + problem.offset}; index it again."
                ) from problem
        first = last + 1


class ShardWriter:
    """Writes one tar and gathers its index. Equal samples in equal order give equal bytes."""

    def __init__(self, file: IO[bytes], shard: str) -> None:
        self.file, self.shard, self.position = file, shard, 0
        self.columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names()}

    def add(self, uid: str, key: str, members: Mapping[str, bytes | memoryview]) -> None:
        """One sample: extension -> content, written in the mapping's order."""
        start = self.position
        for extension, content in members.items():
            head = header(f"{key}.{extension}", len(content))
            padding = -len(content) % BLOCK
            self.file.write(head)
            self.file.write(content)
            self.file.write(bytes(padding))
            self.position += len(head) + len(content) + padding
        for name, value in zip(INDEX_SCHEMA.names(), (uid, key, self.shard, start, self.position - start), strict=True):
            self.columns[name].append(value)

    def finish(self) -> pl.DataFrame:
        """Close the archive (not the file) and return its index."""
        self.file.write(ending(self.position))
        return pl.DataFrame(self.columns, schema=INDEX_SCHEMA)
