"""Indexes a tar by its headers: groups members into samples, or reports why it cannot. The members of a sample must be
contiguous. If they are not (all images first, or a folder per kind of member), no byte range contains a sample, and treating
the pieces as samples would silently lose them: this is reported as damage, with the first affected key.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.sample_members import (
    CAPTION,
    EMPTY,
    IN_JSON,
    MAX_CAPTION,
    MAX_JSON,
    NO_OBJECT,
    PICTURES,
    USUAL,
    MemberNames,
    at_path,
    caption_fault,
    json_object,
)
from datacomp_core.tar import DOWNLOAD_AGAIN, Member, TarDamageError, printable, walk

INDEX_SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "key": pl.String,
        "shard": pl.String,
        "offset": pl.Int64,
        "length": pl.Int64,
    }
)
LookAtPicture = Callable[[IO[bytes], int], str]
REPACK = "pack it again with the members of each sample side by side (`tar --sort=name`)"

_UID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_UID_KEY = re.compile(r"([0-9a-f]{32})(?:-\d+)?", re.IGNORECASE)


class PiecesError(TarDamageError):
    """The members of a sample are not contiguous, so the archive cannot be split into samples."""


@dataclass(frozen=True)
class Indexed:
    """The samples of a shard in order (INDEX_SCHEMA; `uid` is null if unknown), and its damage. `damage` is empty for an
    intact shard; else it says what is wrong and at which byte, and the rows are the samples before it (none if samples are not
    contiguous). `kinds[kind[n]]` are the members of sample n, and `odd[n]` is the report on its image; `outside` are names that
    belong to no sample.
    """

    shard: str
    rows: pl.DataFrame
    damage: str = ""
    advice: str = DOWNLOAD_AGAIN
    kinds: tuple[tuple[str, ...], ...] = ()
    kind: tuple[int, ...] = ()
    outside: Counter[str] = field(default_factory=Counter[str])
    odd: tuple[str, ...] = ()

    def whole(self) -> pl.DataFrame:
        """The rows. DataError if the shard is damaged."""
        if self.damage:
            raise DataError(f"Shard {self.shard}.tar is damaged: {self.damage}; {self.advice}.")
        return self.rows


def index_tar(file: IO[bytes], shard: str, names: MemberNames = USUAL, look: LookAtPicture | None = None) -> Indexed:
    """Walk a seekable tar once, reading only headers, json members and captions.

    A sample's uid is the `uid` of its json member, else its key if that is `<uid>` or `<uid>-<copy>`. Members are grouped
    as webdataset does: neighbours with one key; a repeated extension begins a new sample, as in the reference's resharder.
    `look` is called for every image, with the file at its first byte, and reports irregularities.
    """
    rows = _Rows(shard, names, look)
    size = file.seek(0, io.SEEK_END)
    damage, advice = "", DOWNLOAD_AGAIN
    try:
        for member in walk(file, size):
            rows.add(member, file)
        rows.close()
    except TarDamageError as problem:
        damage, advice = f"{problem.reason} at byte {problem.offset}", problem.advice
        if isinstance(problem, PiecesError):
            rows = _Rows(shard, names, look)
    return Indexed(shard, rows.frame(), damage, advice, tuple(rows.kinds), tuple(rows.kind), rows.outside, tuple(rows.odd))


def uid_of_key(key: str) -> str | None:
    """Return the uid in a key: `<uid>` or `<uid>-<copy>`, behind any folder."""
    found = _UID_KEY.fullmatch(key.rsplit("/", 1)[-1])
    return found.group(1).lower() if found else None


def uid_in(about: dict[str, Any] | None) -> str | None:
    """Return the uid in a sample's json, in lower case; None if it does not have 32 hex digits."""
    uid = about.get("uid") if about else None
    return uid.lower() if isinstance(uid, str) and _UID.fullmatch(uid) else None


class _Rows:
    """Gathers members into samples."""

    def __init__(self, shard: str, names: MemberNames, look: LookAtPicture | None) -> None:
        self.shard, self.names, self.look = shard, names, look
        self.columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names()}
        self.kinds: list[tuple[str, ...]] = []
        self.kind: list[int] = []
        self.odd: list[str] = []
        self.outside: Counter[str] = Counter()
        self.key, self.uid, self.start, self.end = "", None, 0, 0
        self.extensions: dict[str, str] = {}  # names by extension
        self.oddities: dict[str, str] = {}  # by extension
        self._number: dict[tuple[str, ...], int] = {}
        self._seen: dict[str, int] = {}  # kind of sample of each key
        self._of_folders: dict[str, tuple[str, int]] = {}

    def add(self, member: Member, file: IO[bytes]) -> None:
        key, extension = self.names.split(member.name)
        if not key:
            self.outside[printable(member.name)[-100:]] += 1
            return
        if key != self.key or extension in self.extensions:
            self.close()
            self._open(key, extension, member.start)
        self.extensions[extension] = extension if member.size else extension + EMPTY
        self.end = member.end
        if extension == "json":
            self._read_json(member, file)
        elif not self.names.caption_path and extension == (self.names.caption or CAPTION) and 0 < member.size <= MAX_CAPTION:
            file.seek(member.data)
            self.extensions[extension] += caption_fault(file.read(member.size))
        elif self.look is not None and member.size and self.names.picture_of((extension,)):
            file.seek(member.data)
            self.oddities[extension] = self.look(file, member.size)

    def _open(self, key: str, extension: str, start: int) -> None:
        before = self._seen.get(key)
        if before is not None and extension not in _plain(self.kinds[before]):
            raise PiecesError(start, f"the members of sample {key!r} are not adjacent: its {extension} is elsewhere", REPACK)
        self.key, self.start, self.uid = key, start, uid_of_key(key)

    def _read_json(self, member: Member, file: IO[bytes]) -> None:
        file.seek(member.data)
        about = json_object(file.read(member.size)) if member.size <= MAX_JSON else None
        self.uid = uid_in(about) or self.uid
        if about is None:
            self.extensions["json"] = NO_OBJECT
        path = self.names.caption_path or ("caption",)
        text = at_path(about, path)
        if isinstance(text, str):
            self.extensions[IN_JSON] = IN_JSON + ".".join(path) + caption_fault(text)

    def close(self) -> None:
        if self.extensions:
            row = (self.uid, self.key, self.shard, self.start, self.end - self.start)
            for name, value in zip(INDEX_SCHEMA.names(), row, strict=True):
                self.columns[name].append(value)
            kind = tuple(sorted(self.extensions.values()))
            number = self._number.setdefault(kind, len(self.kinds))
            if number == len(self.kinds):
                self.kinds.append(kind)
            self.kind.append(number)
            self.odd.append(self.oddities.get(self.names.picture_of(self.extensions), ""))
            self._seen[self.key] = number
            self._see_folders(number)
        self.key, self.extensions, self.oddities = "", {}, {}

    def _see_folders(self, number: int) -> None:
        """A folder of images and a folder of captions are also pieces."""
        folder, _, stem = self.key.rpartition("/")
        first, other = self._of_folders.setdefault(stem, (folder, number))
        if first == folder or other == number:
            return
        one, two = _plain(self.kinds[other]), _plain(self.kinds[number])
        if one.isdisjoint(two) and _is_picture(one, self.names) != _is_picture(two, self.names):
            raise PiecesError(
                self.start,
                f"the members of sample {stem!r} are in different folders ({first or '.'} and {folder or '.'})",
                "pack it again with the members of each sample side by side and under one name",
            )

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.columns, schema=INDEX_SCHEMA)


def _plain(kind: tuple[str, ...]) -> set[str]:
    """Return the extensions of a kind of sample, without annotations."""
    return {name.split(" (", 1)[0] for name in kind if not name.startswith(IN_JSON)}


def _is_picture(extensions: set[str], names: MemberNames) -> bool:
    return bool(names.picture_of(extensions)) or any(name.rpartition(".")[2] in PICTURES for name in extensions)
