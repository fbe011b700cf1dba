"""Files from outside the store: local, in a bucket, on a web server, on the hub. Each is known by its content.

In a spec a file's name carries the first digits of a mark of its content (`mine.npy#3fa2b1c04d5e`), so that a changed file is
reported and never silently reused. The mark is the sha256; of a bucket's or a web server's file its size and etag or time, if
it has such; of a local file too large to be hashed in seconds its size, time and sampled blocks. A file of the hub is pinned to
a commit.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from datacomp_core import file_access, hub
from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.settings import settings
from datacomp_core.store.fingerprint import without_query
from datacomp_core.store.folder import Folder, hash_file, scratch
from datacomp_core.store.web import WEB

log = logging.getLogger(__name__)

PIN = 16
HASHED_WHOLE = 4 << 30
SAMPLES, SAMPLE_BYTES = 64, 1 << 20
PINNED = re.compile(rf"(.*)#([0-9a-f]{{{PIN}}})", re.DOTALL)
FULL_SHA256 = re.compile(rf"(.*#[0-9a-f]{{{PIN}}})[0-9a-f]{{{64 - PIN}}}", re.DOTALL)
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".z", ".zip", ".7z")
ON_HUB = re.compile(r"hf://(datasets|models)/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")


def pin_place(name: str, suffixes: Sequence[str], what: str) -> str:
    """The absolute name with the digits of its content's mark. SpecError if it is not there or of another kind."""
    if given := FULL_SHA256.fullmatch(name):
        return given[1]
    if PINNED.fullmatch(name):
        return name
    if not name.strip():
        raise SpecError(f"The place of {what} is empty: give a file, a folder or a url.")
    file_access.require_allowed(name)
    try:
        if name.startswith("hf://"):
            return _of_hub(name, suffixes, what)
        place = name if "://" in name else str(Path(name).expanduser().resolve())
        files = names_at(place, suffixes)
        if not files:
            raise SpecError(f"{name} is not {what}: give a file with {' or '.join(suffixes)}, or a folder of them.")
        return f"{place}#{_mark_of(place, files, suffixes)}"
    except SpecError:
        raise
    except (DatacompError, OSError) as problem:
        raise SpecError(f"Cannot read {name} as {what}: {problem}") from problem


def place_of(name: str) -> str:
    """The name without the digits."""
    found = PINNED.fullmatch(name)
    return found[1] if found else name


def local(name: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the local files of a pinned name, in order; remote ones are copied first. DataError if they changed."""
    found = PINNED.fullmatch(name)
    place, digits = (found[1], found[2]) if found else (name, "")
    if place.startswith("hf://"):
        return _brought_from_hub(place, suffixes)
    files = names_at(place, suffixes)
    if digits and (not files or _mark_of(place, files, suffixes) != digits):
        raise DataError(f"{place} is not the file that the recipe was made with: it has changed, or is not on this machine.")
    folder, kept = _folder(place, suffixes), _kept(digits or "unpinned")
    if folder.is_local:
        return [Path(folder.at(file)) for file in files]
    sizes = kept.files()
    for file in files:
        if _name_here(folder, file) not in sizes:
            _bring(folder, file, kept)
    return [kept.path / _name_here(folder, file) for file in files]


def names_at(place: str, suffixes: Sequence[str]) -> list[str]:
    """The names of a file, or of the files in a folder, relative to its folder, in order."""
    if not _is_folder(place, suffixes):
        folder, name = _folder(place, suffixes), _split(place)[1]
        if not folder.exists(name):
            raise DataError(f"{place} is not there.")
        return [name]
    return _tables_in(Folder(place).files(), suffixes, place)


def _tables_in(names: Iterable[str], suffixes: Sequence[str], place: str) -> list[str]:
    """The names that end so, in order. DataError for one that would if it were unpacked: none is left out unseen."""
    endings, names = tuple(suffixes), list(names)
    ours = [name for name in names if not name.startswith("_")]
    packed = tuple(ending + one for ending in suffixes for one in PACKED)
    found = {name for name in ours if name.lower().endswith(endings)}
    if other := sorted(name for name in ours if name.lower().endswith(packed) and name not in found):
        raise DataError(
            f"{place} has files packed in a way that is not read (number: {len(other)}; one is {other[0]}): unpack them."
        )
    other = [name for name in ours if name not in found and not name.rpartition("/")[2].startswith((".", "README"))]
    other += [name for name in names if name.startswith("_") and name.lower().endswith(endings)]
    if found and other:
        _tell_of_others(place, tuple(sorted(other)))
    return sorted(found)


@cache
def _tell_of_others(place: str, others: tuple[str, ...]) -> None:
    """Say once which files of a folder are not read."""
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    log.warning(
        "%s has files that are not read, because their names begin with `_` or have other endings (number: %d): %s",
        place,
        len(others),
        shown,
    )


def _is_folder(place: str, suffixes: Sequence[str]) -> bool:
    """Whether a name that may have any ending is the name of a folder."""
    return not without_query(place).lower().endswith(tuple(suffixes)) or ("://" not in place and Path(place).is_dir())


def _folder(place: str, suffixes: Sequence[str]) -> Folder:
    """The folder that `files_of` counts from."""
    return Folder(place) if _is_folder(place, suffixes) else Folder(_split(place)[0] or "/")


def _split(place: str) -> tuple[str, str]:
    """The folder and the name of a file. The query of a url is part of the name."""
    plain = without_query(place)
    folder, _, name = plain.rpartition("/")
    return folder, name + place[len(plain) :]


def _name_here(folder: Folder, file: str) -> str:
    """Return the local name of a file from another machine."""
    return file.partition("?")[0] if folder.url.startswith(WEB) else file


def _mark_of(place: str, files: Sequence[str], suffixes: Sequence[str]) -> str:
    folder = _folder(place, suffixes)
    marks = [_mark(folder, file) for file in files]
    text = marks[0] if len(marks) == 1 else "\n".join(f"{file} {mark}" for file, mark in zip(files, marks, strict=True))
    return (text if len(marks) == 1 else hashlib.sha256(text.encode()).hexdigest())[:PIN]


def _mark(folder: Folder, file: str) -> str:
    if not folder.is_local:
        stated = folder.mark(file)
        return hashlib.sha256(stated.encode()).hexdigest() if stated else _brought(folder, file)
    path = Path(folder.at(file))
    stat = path.stat()
    if stat.st_size <= HASHED_WHOLE:
        return hash_file(path)
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as data:
        for number in range(SAMPLES):
            data.seek((stat.st_size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _kept(digits: str) -> Folder:
    return Folder(settings().home / "outside" / digits)


def _bring(folder: Folder, file: str, kept: Folder) -> None:
    with kept.writing(_name_here(folder, file)) as target:
        folder.fetch(file, target)


def _brought(folder: Folder, file: str) -> str:
    """The sha256 of a file whose server does not tell when it changes: it is brought each time, and kept by its content."""
    with scratch() as local:
        target = local / "brought"
        folder.fetch(file, target)
        sha256 = hash_file(target)
        _kept(sha256[:PIN]).put(_name_here(folder, file), target, sha256=sha256)
    return sha256


def _parts_of_hub(name: str) -> tuple[hub.Kind, str, str, str]:
    found = ON_HUB.fullmatch(name)
    if found is None:
        raise SpecError(f"{name} is not a valid hub path: use hf://datasets/OWNER/NAME@REVISION/path/to/file.")
    return ("dataset" if found[1] == "datasets" else "model"), found[2], found[3] or "main", (found[4] or "").strip("/")


def _files_of_hub(there: hub.Snapshot, path: str, suffixes: Sequence[str]) -> list[hub.HubFile]:
    """Return the file of a path, or the files in that folder. DataError if there are none."""
    if any(file.path == path for file in there.files):
        return [there.file(path)]
    folder = f"{path}/" if path else ""
    below = {file.path.removeprefix(folder): file for file in there.files if file.path.startswith(folder)}
    found = _tables_in(below, suffixes, f"{there.repository}/{path}")
    if not found:
        there.file(path)
    return [below[name] for name in found]


def _of_hub(name: str, suffixes: Sequence[str], what: str) -> str:
    kind, repository, revision, path = _parts_of_hub(name)
    there = hub.snapshot(kind, repository, revision)
    files = _files_of_hub(there, path, suffixes)
    if len(files) == 1 and files[0].path == path:
        # Of small files the hub states git's sha1 alone, by which a copy on this machine would be another list.
        found = files[0].sha256 or hash_file(_brought_from_hub(f"hf://{kind}s/{repository}@{there.commit}/{path}", suffixes)[0])
        digits = found[:PIN]
    else:
        listed = "\n".join(f"{file.path} {file.sha256 or file.sha1}" for file in files)
        digits = hashlib.sha256(listed.encode()).hexdigest()[:PIN]
    return f"hf://{kind}s/{repository}@{there.commit}/{path}#{digits}"


def _brought_from_hub(place: str, suffixes: Sequence[str]) -> list[Path]:
    kind, repository, commit, path = _parts_of_hub(place)
    kept = Folder(settings().home / "outside" / f"{kind}s" / repository / commit)
    if path and kept.is_file(path):
        return [kept.path / path]
    there = hub.snapshot(kind, repository, commit)
    if re.fullmatch("[0-9a-f]{40}", commit) and there.commit != commit:
        raise DataError(f"{place} is not what the recipe was made with: the hub now has {there.commit} for that commit.")
    wanted = [file.path for file in _files_of_hub(there, path, suffixes)]
    sizes = kept.files()
    missing = {name for name in wanted if name not in sizes}
    if missing:
        hub.fetch(there, kept, only=lambda name: name in missing)
    return [kept.path / name for name in wanted]
