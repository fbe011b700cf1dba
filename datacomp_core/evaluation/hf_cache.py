"""Test sets as the reference has them on disk: Flickr, MSCOCO and WinoGAViL in the cache of Hugging Face's `datasets`.

    <data>/hf_cache/nlphuji___<set>/<config>/<version>/<hash>/<set>-test.arrow    rows; a picture's bytes, or its path
    <data>/hf_cache/downloads/extracted/...                                      the pictures, if the rows have paths
    <data>/hf_cache/downloads/<hash>, <hash>.json                                table and archive, and the url each came from
The rows are what the reference evaluates; without them, table and archive are read. A cache that was moved is found all the same.
Nothing is executed, and `datasets` is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from datacomp_core.errors import DataError
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import Samples, decode
from datacomp_core.evaluation.tables import Association, NamedPictures, ZipSet, open_associations, open_captions
from datacomp_core.image_preprocessing import Pixels
from datacomp_core.store.folder import Folder

CACHE, DOWNLOADS = "hf_cache", "downloads"
PICTURES = {"retrieval": "image", "winogavil": "candidate_images"}
WANTED = {"retrieval": ("image", "caption"), "winogavil": ("candidate_images", "candidates", "cue", "associations")}

Place = tuple[str, int, int]
"""An arrow file below the cache, a row of it, and which of the row's pictures; -1: it has one."""


def place(sets: Folder, task: EvalTask) -> Folder:
    """The folder of a task's set: its own in the data folder, or the folder of the reference's cache if there is none."""
    own, cached = sets / task.folder, sets / CACHE
    if not task.hub or task.at or own.exists() or not cached.exists():
        return own
    there = cached / task.hub.replace("/", "___")
    return there if _arrows(there) or _downloaded(cached, _repository(there)) else own


def is_cached(folder: Folder) -> bool:
    """Whether a folder contains a set of such a cache."""
    return folder.url.rpartition("/")[0].rpartition("/")[2] == CACHE or bool(_arrows(folder))


@dataclass(frozen=True)
class CachedBatch:
    """A batch of pictures, each with its captions (none for WinoGAViL)."""

    task: str
    number: int
    folder: Folder
    column: str
    places: tuple[Place, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    pixels: Pixels

    def read(self) -> Samples:
        wanted = {"captions": "txt"} if self.captions else {}
        found = decode(list(self.names), self._content(), tuple(wanted), self.pixels, self.folder.url, colour="last")
        return replace(found, members={wanted[name]: values for name, values in found.members.items()})

    def _content(self) -> Iterator[dict[str, bytes]]:
        for number, (arrow, row, which) in enumerate(self.places):
            picture = _table(self.folder, arrow)[self.column][row].as_py()
            picture = picture if which < 0 else picture[which]
            data = picture.get("bytes") or self.folder.read(located(self.folder, str(picture.get("path") or "")))
            members = {"jpg": data}
            if self.captions:
                members["captions"] = json.dumps(self.captions[number]).encode()
            yield members


@dataclass(frozen=True)
class CachedSet(NamedPictures):
    """Pictures in order, with captions or with the instances that are about them."""

    folder: Folder
    column: str
    places: tuple[Place, ...]
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...] = ()
    instances: tuple[Association, ...] = ()
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def batches(self, task: str, size: int, pixels: Pixels) -> Iterator[CachedBatch]:
        for number, start in enumerate(range(0, len(self.names), size)):
            rows = slice(start, start + size)
            some = self.places[rows], self.names[rows], self.captions[rows]
            yield CachedBatch(task, number, self.folder, self.column, *some, pixels)


def open_cached(folder: Folder, protocol: str) -> CachedSet | ZipSet:
    """A set of the cache. DataError if it has neither rows nor table and archive, or if they are not of this protocol."""
    cache, arrows = _cache_of(folder), _arrows(folder)
    if not arrows:
        found = _downloaded(cache, _repository(folder))
        opens = open_captions if protocol == "retrieval" else open_associations
        if not found:
            raise DataError(
                f"{folder} has no *-test.arrow, and {cache.at(DOWNLOADS)} does not have its table and archive: download the set."
            )
        return opens(cache / DOWNLOADS, **found)
    inner = folder.url.removeprefix(f"{cache.url}/")
    rows = [(f"{inner}/{arrow}", row, values) for arrow in arrows for row, values in _rows(cache, f"{inner}/{arrow}", protocol)]
    if protocol == "retrieval":
        places = tuple((arrow, row, -1) for arrow, row, _ in rows)
        names = tuple(f"row {row}" for _, row, _ in rows)
        return CachedSet(cache, "image", places, names, tuple(tuple(map(str, values["caption"])) for *_, values in rows))
    pictures: dict[str, Place] = {}
    for arrow, row, values in rows:
        for which, name in enumerate(values["candidates"]):
            pictures.setdefault(str(name), (arrow, row, which))
    instances = tuple(Association(v["cue"], tuple(v["candidates"]), tuple(v["associations"])) for *_, v in rows)
    return CachedSet(cache, PICTURES[protocol], tuple(pictures.values()), tuple(pictures), instances=instances)


def files_of(folder: Folder, protocol: str) -> tuple[Folder, list[str]]:
    """Return the files of a set in the cache, relative to the cache."""
    data = open_cached(folder, protocol)
    if isinstance(data, ZipSet):
        return data.folder, [data.archive, data.table]
    paths: set[str] = {arrow for arrow, _, _ in data.places}
    for arrow in sorted(paths):
        for value in _table(data.folder, arrow)[data.column].to_pylist():
            for picture in value if isinstance(value, list) else [value]:
                if not picture.get("bytes"):
                    paths.add(located(data.folder, str(picture.get("path") or "")))
    return data.folder, sorted(paths)


def files_to_copy(folder: Folder, protocol: str) -> tuple[Folder, list[str]]:
    """The cache of a set, and all files below it that a copy of the set needs, also the notes that name its downloads."""
    cache, (where, names) = _cache_of(folder), files_of(folder, protocol)
    if where.url == cache.url:
        return cache, names
    return cache, sorted(f"{DOWNLOADS}/{name}{end}" for name in names for end in ("", ".json"))


def located(cache: Folder, path: str) -> str:
    """A picture's path below the cache, wherever the cache lay when it was written. DataError if it was not below one."""
    _, found, below = path.replace("\\", "/").partition(f"/{DOWNLOADS}/")
    if not found or ".." in below.split("/"):
        raise DataError(f"its picture {path!r} is not inside {DOWNLOADS}/ of a cache")
    return f"{DOWNLOADS}/{below}"


def _cache_of(folder: Folder) -> Folder:
    return Folder(folder.url.rpartition("/")[0])


def _repository(folder: Folder) -> str:
    return folder.url.rpartition("/")[2].replace("___", "/")


def _arrows(folder: Folder) -> list[str]:
    """The test rows of the newest build of a set, in order."""
    found = {
        path: detail[1]
        for path, detail in folder.details(".arrow").items()
        if "-test" in path.rpartition("/")[2] and not path.rpartition("/")[2].startswith("cache-")
    }
    if not found:
        return []
    newest = max(found, key=lambda path: (found[path], path)).rpartition("/")[0]
    return sorted(path for path in found if path.rpartition("/")[0] == newest)


def _downloaded(cache: Folder, repository: str) -> dict[str, str]:
    """Table and archive of a repository by the notes beside what was downloaded; empty if they are not both there."""
    downloads, found = cache / DOWNLOADS, dict[str, str]()
    names = set(downloads.names())
    for note in sorted(name for name in names if name.endswith(".json")):
        try:
            url = str(downloads.read_json(note)["url"]).partition("?")[0]
        except (ValueError, KeyError, TypeError):
            continue
        kind = {"csv": "table", "zip": "archive"}.get(url.rpartition(".")[2])
        if kind and f"/{repository}/" in url and note.removesuffix(".json") in names:
            found[kind] = note.removesuffix(".json")
    return found if len(found) == 2 else {}


def _table(cache: Folder, arrow: str) -> Any:
    return _mapped(cache, arrow, cache.mark(arrow))


@lru_cache(maxsize=8)
def _mapped(cache: Folder, arrow: str, mark: str) -> Any:
    """The pyarrow table of an arrow file as it is now; on a disk it is mapped, not read."""
    import pyarrow as pa

    try:
        source = pa.memory_map(str(cache.path / arrow)) if cache.is_local else pa.BufferReader(cache.read(arrow))
        return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as problem:
        raise DataError(f"{cache.at(arrow)} cannot be read ({problem}): download the set again.") from problem


def _rows(cache: Folder, arrow: str, protocol: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows without their pictures. DataError if the columns are not those of the protocol."""
    table, wanted = _table(cache, arrow), WANTED[protocol]
    if lacking := [name for name in wanted if name not in table.column_names]:
        raise DataError(f"{cache.at(arrow)} has no column {', '.join(lacking)}; it has {', '.join(table.column_names)}.")
    for row, values in enumerate(table.select([name for name in wanted if name != PICTURES[protocol]]).to_pylist()):
        if any(values[name] is None or values[name] == [] for name in values):
            raise DataError(f"{cache.at(arrow)}, row {row}: it has no {' or no '.join(n for n in values if not values[n])}.")
        yield row, values
