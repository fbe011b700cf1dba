"""Test sets that lie on the hub as one csv table and one zip of images: Flickr, MSCOCO and WinoGAViL. Nothing is executed.

    <folder>/<any>.csv, <any>.zip      captions: columns `filename` and `raw` (a list, or one a row)
                                       associations: columns `cue`, `candidates`, `associations` (lists of image names)
Images are opened as they are, without turning them by their EXIF, as the reference's `datasets` 2.8 did.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from datacomp_core.errors import DataError
from datacomp_core.evaluation.datasets import IMAGE_EXTENSIONS, Samples, decode, text_of
from datacomp_core.image_preprocessing import Pixels
from datacomp_core.store.folder import Folder

PICTURE = ("filename", "image", "image_name", "file_name", "filepath")
CAPTIONS = ("raw", "caption", "captions", "comment", "sentences")
"""The usual names of a table's caption columns; ours is the first."""
DELIMITERS = (",", ";", "\t", "|")
A_LIST = re.compile(r"""\s*[\[(]\s*["'\])]""")
"""How a list of texts begins. A caption may begin with a bracket, too: `(left) a dog`."""


@dataclass(frozen=True)
class ZipBatch:
    """A batch of archive members, each with its captions (none for WinoGAViL)."""

    task: str
    number: int
    folder: Folder
    archive: str
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    pixels: Pixels

    def read(self) -> Samples:
        wanted = {"captions": "txt"} if self.captions else {}
        found = decode(list(self.names), self._content(), tuple(wanted), self.pixels, self.folder.at(self.archive), colour="last")
        return replace(found, members={wanted[name]: values for name, values in found.members.items()})

    def _content(self) -> Iterator[dict[str, bytes]]:
        with self.folder.open(self.archive) as file, _opened(file, self.folder.at(self.archive)) as archive:
            for place, name in enumerate(self.names):
                try:
                    members = {name.rpartition(".")[2].lower(): archive.read(name)}
                except (zipfile.BadZipFile, zlib.error, KeyError, OSError) as problem:
                    raise DataError(f"it is not readable in the archive ({problem})") from problem
                if self.captions:  # as they are: what is white space and what a control character, the tokenizer decides
                    members["captions"] = json.dumps(self.captions[place]).encode()
                yield members


@dataclass(frozen=True)
class Association:
    """An instance of WinoGAViL: the candidates that go with the cue are to be found."""

    cue: str
    candidates: tuple[str, ...]
    associations: tuple[str, ...]


class NamedPictures:
    """The sizes of a test set that names its pictures, with captions or with the instances that are about them."""

    names: tuple[str, ...]
    instances: tuple[Association, ...]

    @property
    def num_samples(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        return len(self.instances) or len(self.names)


@dataclass(frozen=True)
class ZipSet(NamedPictures):
    """Archive members in order, with captions or with the instances that are about them."""

    folder: Folder
    archive: str
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] = ()
    instances: tuple[Association, ...] = ()
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    table: str = ""

    def batches(self, task: str, size: int, pixels: Pixels) -> Iterator[ZipBatch]:
        for number, start in enumerate(range(0, len(self.names), size)):
            rows = slice(start, start + size)
            yield ZipBatch(task, number, self.folder, self.archive, self.names[rows], self.captions[rows], pixels)


def open_captions(folder: Folder, table: str = "", archive: str = "") -> ZipSet:
    """Images with captions, in the order of the table. DataError names the row that is wrong.

    Without `table` and `archive` they are the one csv and the one zip of the folder.

    A table may have a row an image, with a list of captions, or a row a caption, as the raw tables of Flickr do.
    """
    rows, name, table = _table(folder, (PICTURE, CAPTIONS), table)
    archive, members = _archive(folder, archive)
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        own = captions.setdefault(_member(row[PICTURE[0]], members, table, number), [])
        own += _captions(row[CAPTIONS[0]], table, number)
    return ZipSet(folder, archive, tuple(captions), tuple(tuple(own) for own in captions.values()), table=name)


def open_associations(folder: Folder, table: str = "", archive: str = "") -> ZipSet:
    """WinoGAViL's instances and the images they are about, each once. DataError names the row that is wrong."""
    rows, name_of_table, table = _table(folder, (("cue",), ("candidates",), ("associations",)), table)
    archive, members = _archive(folder, archive)
    instances: list[Association] = []
    images: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        candidates = _list(row["candidates"], table, number)
        if not row["cue"].strip() or not candidates:
            raise DataError(f"{table}, row {number}: it has no cue or no candidates; download the set again.")
        right = _list(row["associations"], table, number)
        if fault := _wrong_instance(candidates, right):
            raise DataError(f"{table}, row {number}: {fault}; download the set again.")
        for name in candidates:
            images.setdefault(name, _member(name, members, table, number))
        instances.append(Association(row["cue"], candidates, right))
    twice = [name for name, count in Counter(stem(name) for name in set(images.values())).items() if count > 1]
    if twice:
        raise DataError(
            f"{table} asks for two pictures called {twice[0]!r} in different folders: give each picture its own name."
        )
    return ZipSet(folder, archive, tuple(images.values()), instances=tuple(instances), table=name_of_table)


def _wrong_instance(candidates: tuple[str, ...], right: tuple[str, ...]) -> str:
    """Why candidates and those that go with the cue have no Jaccard index; empty if they have one."""
    if len(set(candidates)) < 2:
        return "one candidate is not a choice"
    if not right:
        return "no candidate belongs to its cue"
    strange = [name for name in right if name not in candidates]
    return f"the association {strange[0]!r} is not one of its candidates" if strange else ""


def stem(name: str) -> str:
    """A picture's name without folder and image extension: how the tables name it."""
    base = name.rsplit("/", 1)[-1]
    head, _, extension = base.rpartition(".")
    return head if extension.lower() in IMAGE_EXTENSIONS else base


def _only(folder: Folder, suffix: str) -> str:
    found = [name for name in folder.files(suffix) if "/" not in name]
    if len(found) != 1:
        raise DataError(f"{folder} has {len(found)} {suffix} files and must have one; download the set again.")
    return found[0]


def _table(folder: Folder, columns: tuple[tuple[str, ...], ...], name: str = "") -> tuple[list[dict[str, str]], str, str]:
    """The rows of the csv file, each column by its first name; its name and path. A BOM and another delimiter are understood."""
    name = name or _only(folder, ".csv")
    text = text_of(folder, name).removeprefix("\ufeff")
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda mark: (header.count(mark), -DELIMITERS.index(mark)))
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == "|"))
    except csv.Error as problem:
        raise DataError(f"{folder.at(name)} is not a readable csv table ({problem}); download the set again.") from problem
    there = {key.strip(): key for key in (rows[0] if rows else {}) if isinstance(key, str)}
    chosen = {names[0]: next((there[one] for one in names if one in there), None) for names in columns}
    lacking = [column for column, key in chosen.items() if key is None]
    if lacking:
        raise DataError(f"{folder.at(name)} has no rows with {', '.join(lacking)}; download the set again.")
    for number, row in enumerate(rows, 1):
        if None in row or any(row[str(key)] is None for key in chosen.values()):
            raise DataError(
                f"{folder.at(name)}, row {number}: it does not have as many cells as the header; download the set again."
            )
    return [{column: row[str(key)] for column, key in chosen.items()} for row in rows], name, folder.at(name)


def _archive(folder: Folder, name: str = "") -> tuple[str, dict[str, list[str]]]:
    """The archive, and its pictures' paths by their names without folder and extension."""
    name = name or _only(folder, ".zip")
    with folder.open(name) as file, _opened(file, folder.at(name)) as archive:
        members = [member for member in archive.namelist() if member.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    found: dict[str, list[str]] = {}
    for member in dict.fromkeys(members):
        if not member.startswith("__MACOSX"):
            found.setdefault(stem(member), []).append(member)
    return name, found


def _opened(file: object, where: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (zipfile.BadZipFile, OSError) as problem:
        raise DataError(f"{where} is not a complete zip archive ({problem}); download the set again.") from problem


def _member(name: str, members: dict[str, list[str]], table: str, number: int) -> str:
    """The picture that a table means. DataError if there is none, or if several have the name and no folder tells them apart."""
    there = members.get(stem(name), [])
    for same in (lambda path: path == name, lambda path: path.endswith(f"/{name}"), lambda path: True):
        found = [path for path in there if same(path)]
        if len(found) == 1:
            return found[0]
    if not there:
        raise DataError(f"{table}, row {number}: the picture {name!r} is not in the archive; download the set again.")
    raise DataError(
        f"{table}, row {number}: the picture {name!r} is in the archive more than once ({', '.join(there[:3])}): name it with "
        "its folder."
    )


def _captions(text: str, table: str, number: int) -> tuple[str, ...]:
    """A list of captions, or one caption as plain text. None of them may be missing altogether."""
    found = _list(text, table, number) if A_LIST.match(text) else (text,)
    if not any(caption.strip() for caption in found):
        raise DataError(f"{table}, row {number}: it has no caption; download the set again.")
    return found


def _list(text: str, table: str, number: int) -> tuple[str, ...]:
    """A list of texts as JSON or as Python writes it; never evaluated."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as problem:
            raise DataError(f"{table}, row {number}: {text[:60]!r} is not a list; download the set again.") from problem
    if not isinstance(found, list | tuple):
        raise DataError(f"{table}, row {number}: {text[:60]!r} is not a list; download the set again.")
    return tuple(str(item) for item in found)
