"""Webdataset shards and their index: the common ground of those who write shards and those who read them.

A shard is `<8 digits>.tar` with members `<key>.<extension>`; all members of a sample are side by side. Its index,
`index/<8 digits>.parquet`, has one row per sample, in order: the byte range that contains the sample's members whole, headers
and padding included, so that a reader fetches one range and a writer copies it. The index of a view has the same form and points
into the tars of another folder (`tars_of`): its column `shard` names a tar there.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO, Any

import polars as pl

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError
from datacomp_core.indexing import INDEX_SCHEMA, Indexed, index_tar, uid_in, uid_of_key
from datacomp_core.sample_members import USUAL, MemberNames, json_object, names_of
from datacomp_core.store import FileStat, Folder, Store
from datacomp_core.store.folder import hash_file
from datacomp_core.tar import BLOCK, TarDamageError, ending, header, walk

__all__ = ["INDEX_SCHEMA", "Indexed", "index_shard", "index_tar"]

INDEX = "index"
LEDGER = "ledger"
TAKEN_DOWN = "taken_down"  # a ledger's reason for a sample that was there and was removed on demand
MEMBERS = "members"  # an index's column for sets whose members have other names than the usual (`MemberNames.text`)
MARK = "tar"  # of an index's metadata: size and time (or etag) of the tar that was indexed, where that is not ours
CONTENT = "content"  # of an index's metadata: the sha256 of such a tar, where its bytes do not state the uids of its samples
READ_AHEAD = 8 << 20
GAP = 64 << 10
CHECKERS = 16
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".TAR")


def shard_name(number: int) -> str:
    """The reference's naming: eight digits."""
    return f"{number:08d}"


def shard_names(folder: Folder) -> list[str]:
    """Return the names of the shards (without `.tar`) directly in a folder, sorted. DataError for none, or compressed ones."""
    return tars_in(folder, folder.files())


def tars_in(folder: Folder, files: Iterable[str]) -> list[str]:
    """`shard_names` of a folder that has these files."""
    here = [name for name in files if "/" not in name and not name.startswith(".")]
    packed = [name for name in here if name.endswith(PACKED)]
    if packed:
        raise DataError(
            f"{folder.at(packed[0])} is not a plain .tar ({len(packed)} such files are there): unpack them, or move them away."
        )
    names = [name.removesuffix(".tar") for name in here if name.endswith(".tar")]
    if not names:
        raise DataError(f"{folder} has no shards: give a folder of webdataset tars.")
    return names


# The index -----------------------------------------------------------------------------------------------------------


def index_shard(folder: Folder, shard: str, names: MemberNames = USUAL) -> Indexed:
    """`index_tar` of `<shard>.tar` in a folder. DataError if it is not there."""
    with folder.open(f"{shard}.tar") as file:
        return index_tar(file, shard, names)


def tars_of(store: Store, shards: ShardSet) -> Folder:
    """Where the tars of a shard set are: in its own folder, or where a view points to."""
    return store.folder(shards.model_copy(update={"data": shards.tars}) if shards.tars else shards)


def index_names(folder: Folder) -> list[str]:
    """Names of the shards that have an index, sorted: those of a view."""
    return [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]


def sample_shards(folder: Folder) -> list[str]:
    """Names of the shards to read samples from: those with an index, or every tar of a folder without one."""
    return index_names(folder) or shard_names(folder)


def index_of(folder: Folder, shard: str) -> pl.DataFrame:
    """A shard's index, or what a walk over the tar finds if it has none. DataError as in `read_index`, or for a damaged tar."""
    indexed = folder.exists(f"{INDEX}/{shard}.parquet")
    return read_index(folder, shard) if indexed else index_shard(folder, shard).whole()


def index_bytes(rows: pl.DataFrame, mark: str = "", content: str = "") -> bytes:
    buffer = io.BytesIO()
    noted = {name: value for name, value in ((MARK, mark), (CONTENT, content)) if value}
    options: dict[str, Any] = {"metadata": noted} if noted else {}
    rows.write_parquet(buffer, compression="zstd", statistics=False, **options)
    return buffer.getvalue()


def write_index(out: Folder, shard: str, rows: pl.DataFrame, mark: str = "", content: str = "") -> FileStat:
    """Put `index/<shard>.parquet` into the folder of the shards; with the marks of a tar that others may write again."""
    return out.write(f"{INDEX}/{shard}.parquet", index_bytes(_in_schema(rows), mark, content))


def read_index(folder: Folder, shard: str) -> pl.DataFrame:
    """Return a shard's index. DataError if it is missing, is not an index, or belongs to another tar than the present one."""
    rows, mark = stored_index(folder, shard)
    _see_mark(folder, shard, rows, mark)
    return rows


def stored_index(folder: Folder, shard: str) -> tuple[pl.DataFrame, str]:
    """Return a shard's stored index, and the mark of its tar (empty: a tar of ours)."""
    data = folder.read(f"{INDEX}/{shard}.parquet")
    try:
        rows = _in_schema(pl.read_parquet(io.BytesIO(data)))
        return rows, pl.read_parquet_metadata(io.BytesIO(data)).get(MARK, "")
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{folder.at(f'{INDEX}/{shard}.parquet')} is not a shard index: {problem}") from problem


def check_indexes(folder: Folder, shards: list[str]) -> None:
    """See that the indexes of these shards are of the tars that are there. DataError names one that is not."""

    def see(shard: str) -> None:
        mark = _stored_mark(folder, shard)
        if not mark or mark != tar_mark(folder, shard):
            read_index(folder, shard)

    with ThreadPoolExecutor(CHECKERS) as pool:
        for _ in pool.map(see, shards):
            pass


def _stored_mark(folder: Folder, shard: str) -> str:
    """Return the mark of an index's tar, without reading its rows; empty if there is none."""
    try:
        return pl.read_parquet_metadata(io.BytesIO(folder.read(f"{INDEX}/{shard}.parquet"))).get(MARK, "")
    except pl.exceptions.PolarsError:
        return ""


def tar_mark(folder: Folder, shard: str) -> str:
    """Return a cheap mark that tells a tar from another one with the same name: size, and time of change or the bucket's etag."""
    return folder.mark(f"{shard}.tar")


def tar_content(folder: Folder, shard: str) -> str:
    """Return the sha256 of a tar on a disk; empty in a bucket, whose etag is in the tar's mark."""
    return hash_file(folder.path / f"{shard}.tar") if folder.is_local else ""


def stored_content(folder: Folder, shard: str) -> str:
    """The `tar_content` that a shard's index was written with; empty if it was written without."""
    return pl.read_parquet_metadata(io.BytesIO(folder.read(f"{INDEX}/{shard}.parquet"))).get(CONTENT, "")


@lru_cache(maxsize=1 << 16)
def _is_copy(folder: Folder, shard: str, mark: str, content: str) -> bool:
    """Whether the tar that now has this mark has this content; each is read once a process."""
    return tar_content(folder, shard) == content and tar_mark(folder, shard) == mark


def _see_mark(folder: Folder, shard: str, rows: pl.DataFrame, mark: str) -> None:
    """DataError if a tar is not the one that was indexed.

    One that was only copied has another time, so it is walked; where its bytes do not state the uids, all of them are compared.
    """
    now = tar_mark(folder, shard) if mark else ""
    if now == mark:
        return
    content = stored_content(folder, shard)
    if content and _is_copy(folder, shard, now, content):
        return
    names = names_of(rows[MEMBERS][0] or "") if MEMBERS in rows.columns and rows.height else USUAL
    walked = index_shard(folder, shard, names)
    columns = ["key", "offset", "length", "uid"]
    moved = rows.height - rows.select(columns).join(walked.rows.select(columns), on=columns, how="semi").height
    if walked.damage or moved:
        raise DataError(
            f"{folder.at(shard)}.tar was changed after it was indexed ({moved} of its {rows.height} samples are not known to be "
            "where they were): adopt the folder again in another edition (`datacomp pool adopt --refresh`, or --edition)."
        )


def _in_schema(rows: pl.DataFrame) -> pl.DataFrame:
    more = [pl.col(MEMBERS).cast(pl.String)] if MEMBERS in rows.columns and rows[MEMBERS].null_count() < rows.height else []
    return rows.select(*(pl.col(name).cast(kind) for name, kind in INDEX_SCHEMA.items()), *more)


# Samples -------------------------------------------------------------------------------------------------------------


def parse_sample(data: bytes, names: MemberNames = USUAL, *, uid: str | None = None, key: str | None = None) -> dict[str, bytes]:
    """The members of one sample from its byte range: extension (lower case) -> content.

    TarDamageError if they are damaged, or if they are of another sample than the one of this uid and key.
    """
    file = io.BytesIO(data)
    members: dict[str, bytes] = {}
    found = ""
    for member in walk(file, len(data), whole=False):
        stem, extension = names.split(member.name)
        if stem and found and stem != found:
            raise TarDamageError(member.start, f"it contains samples {found!r} and {stem!r}")
        if stem:
            found = stem
            members[extension] = data[member.data : member.data + member.size]
    if uid is not None or key is not None:
        see_sample(found, members.get("json"), uid, key)
    return names.canonical(members)


def see_sample(found: str, about: bytes | None, uid: str | None, key: str | None) -> None:
    """TarDamageError if the sample with the key `found` and the json `about` is another than `uid`, `key`.

    The uid decides where the bytes state one, else the key; the keys of a view and of a resharded set contain the uid.
    """
    if not found:
        raise TarDamageError(0, "it contains no sample")
    if uid is not None:
        if about is not None and uid.encode() in about:
            return
        stated = (uid_in(json_object(about)) if about is not None else None) or uid_of_key(found)
        if stated is not None:
            if stated != uid.lower():
                raise TarDamageError(0, f"it contains sample {stated} instead of {uid}")
            return
        if key is not None and uid_of_key(key) == uid.lower():
            return
    if key is not None and key != found:
        raise TarDamageError(0, f"it contains sample {found!r} instead of {key!r}")


def read_samples(folder: Folder, rows: pl.DataFrame) -> Iterator[tuple[str, dict[str, bytes]]]:
    """`(uid, members)` for index rows of one shard that are in order of offset."""
    yield from zip(rows["uid"].to_list(), read_members(folder, rows), strict=True)


def read_members(folder: Folder, rows: pl.DataFrame) -> Iterator[dict[str, bytes]]:
    """Members of each of some index rows (shard, offset, length) of one shard, which are in order of offset.

    Neighbouring ranges are read together; at most about READ_AHEAD bytes are held. DataError if the shard is missing, shorter
    than its index says, damaged, or holds other samples there than the rows say (by `uid` and `key`, where they have them).
    """
    if rows.is_empty():
        return
    name = f"{rows['shard'][0]}.tar"
    offsets, lengths = rows["offset"].to_list(), rows["length"].to_list()
    uids, keys, named = (rows[of].to_list() if of in rows.columns else [None] * rows.height for of in ("uid", "key", MEMBERS))
    first = 0
    while first < len(offsets):
        last, end = first, offsets[first] + lengths[first]
        while last + 1 < len(offsets) and offsets[last + 1] - end <= GAP and end - offsets[first] < READ_AHEAD:
            last += 1
            end = offsets[last] + lengths[last]
        data = memoryview(folder.read_range(name, offsets[first], end))
        for row in range(first, last + 1):
            begin = offsets[row] - offsets[first]
            some = bytes(data[begin : begin + lengths[row]])
            try:
                yield parse_sample(some, names_of(named[row] or ""), uid=uids[row], key=keys[row])
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
