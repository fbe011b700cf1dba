"""Repacks tars in which the members of a sample are not contiguous: all images first, or a folder per kind of member. An index
requires contiguous members, so such a set is repacked: a first pass reads the headers of every tar, a second one writes new
tars into another folder. Names decide which members belong together; ambiguous names are an error.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from datacomp_core.errors import DataError
from datacomp_core.indexing import index_tar
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA
from datacomp_core.sample_members import MemberNames
from datacomp_core.shards import shard_names
from datacomp_core.store import Folder
from datacomp_core.store.folder import scratch
from datacomp_core.tar import Member, TarDamageError, ending, header, printable, walk

BLOCK = 512
AT_ONCE = 1 << 20


class MovedMember(NamedTuple):
    """A member of a tar: the key of its sample (as bytes would have it), the name that it gets, and the position of its data."""

    key: str
    name: str
    member: Member


def regroup(root: Folder, shards: Folder, target: Folder, names: MemberNames, *, workers: int = 1) -> list[str]:
    """Write the tars of `shards` to `target` with contiguous samples; return the names of those that changed.

    Unchanged tars, the parquets next to tars and `metadata/` of `root` are copied. DataError if a tar is damaged or its
    members cannot be grouped (all are named, and nothing is written), or if `target` has other tars.
    """
    found = shard_names(shards)
    if target.url == root.url or f"{target.url}/".startswith(f"{root.url}/") or f"{root.url}/".startswith(f"{target.url}/"):
        raise DataError(f"{target} and {root} are nested: give another folder for the repacked tars.")
    there = target if shards.url == root.url else target / "shards"
    others = sorted(
        name for name in target.files(".tar") if f"{target.at(name)}" not in {there.at(f"{one}.tar") for one in found}
    )
    if others:
        raise DataError(f"{target.at(others[0])} is not one of the tars in {shards}: give an empty folder for the new ones.")
    wrong = [told for _, told in process_map(partial(_problem, shards, names), found, workers=workers) if told]
    if wrong:
        raise DataError(
            f"{len(wrong)} of the tars in {shards} cannot be repacked, so nothing was written. {' '.join(sorted(wrong))}"
        )
    changed = [name for name, is_new in process_map(partial(_write, shards, there, names), found, workers=workers) if is_new]
    for name in [name for name in shards.files(".parquet") if "/" not in name]:
        _same_or_put(there, name, lambda path, name=name: _copy(shards, name, path))
    if shards.url != root.url or (root / METADATA).exists():
        for name in (root / METADATA).files(".parquet"):
            _same_or_put(target / METADATA, name, lambda path, name=name: _copy(root / METADATA, name, path))
    return sorted(changed)


def together(members: Sequence[Member], names: MemberNames) -> list[MovedMember]:
    """Return the members in the order to write. DataError if their names do not say which belong together."""
    plain = [_cut(member.name, names) for member in members]
    folders = _merged(plain)
    groups: dict[str, list[MovedMember]] = {}
    outside: list[MovedMember] = []
    seen: set[tuple[str, str]] = set()
    for member, (folder, stem, extension) in zip(members, plain, strict=True):
        if not extension:
            outside.append(MovedMember("", member.name, member))
            continue
        merged = folders.get((folder, stem), folder)
        key = f"{merged}/{stem}" if merged else stem
        if (key, extension.lower()) in seen:
            raise DataError(
                f"the key {printable(key)!r} has more than one member {printable(extension)!r}, so their names do not say "
                "which members form a sample: give every sample a unique key"
            )
        seen.add((key, extension.lower()))
        groups.setdefault(key, []).append(MovedMember(key, f"{key}.{extension}", member))
    return outside + [placed for group in groups.values() for placed in group]


def _cut(name: str, names: MemberNames) -> tuple[str, str, str]:
    """Folder, stem and extension of a member; no extension if it belongs to no sample."""
    if not names.split(name)[0]:
        return "", name, ""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".") if names.cut == "first_dot" else base.rpartition(".")
    return folder, stem, extension


def _merged(plain: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    """Return the folder for the members of (folder, stem), if a sample's members are in separate folders."""
    kinds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folder, stem, extension in plain:
        if extension:
            kinds[stem][folder].add(extension.lower())
    found: dict[tuple[str, str], str] = {}
    for stem, by_folder in kinds.items():
        for above in (lambda _: "", _parent):
            sets: dict[str, list[set[str]]] = defaultdict(list)
            for folder, extensions in by_folder.items():
                sets[above(folder)].append(extensions)
            if len(by_folder) > 1 and all(len(set[str]().union(*some)) == sum(map(len, some)) for some in sets.values()):
                found |= {(folder, stem): above(folder) for folder in by_folder if len(sets[above(folder)]) > 1}
                break
    return found


def _parent(folder: str) -> str:
    return folder.rpartition("/")[0]


def _is_apart(file: IO[bytes], shard: str, names: MemberNames) -> bool:
    """Return whether members of a sample are not contiguous. TarDamageError if the tar has another problem."""
    list(walk(file, file.seek(0, 2)))
    return bool(index_tar(file, shard, names).damage)


def _problem(shards: Folder, names: MemberNames, name: str) -> str:
    """Return why a tar cannot be repacked; empty if it can."""
    with shards.open(f"{name}.tar") as file:
        try:
            if _is_apart(file, name, names):
                together(list(walk(file, file.seek(0, 2))), names)
        except TarDamageError as problem:
            return f"{name}.tar is damaged: {problem.reason} at byte {problem.offset}; {problem.advice}."
        except DataError as problem:
            return f"{name}.tar: {problem}."
    return ""


def _write(shards: Folder, target: Folder, names: MemberNames, name: str) -> bool:
    """Repack one tar, or copy it; return whether it was repacked. DataError if samples are still not contiguous."""
    with shards.open(f"{name}.tar") as file:
        if not _is_apart(file, name, names):
            _same_or_put(target, f"{name}.tar", lambda path: _copy(shards, f"{name}.tar", path))
            return False
        placed = together(list(walk(file, file.seek(0, 2))), names)
        _same_or_put(target, f"{name}.tar", lambda path: _pack(file, placed, path, name, names))
    return True


def _pack(file: IO[bytes], placed: Sequence[MovedMember], path: Path, shard: str, names: MemberNames) -> None:
    with path.open("wb") as made:
        for one in placed:
            made.write(header(one.name, one.member.size))
            for block in _range(file, one.member.data, one.member.size):
                made.write(block)
            made.write(bytes(-one.member.size % BLOCK))
        made.write(ending(made.tell()))
    with path.open("rb") as made:
        index_tar(made, shard, names).whole()


def _range(file: IO[bytes], start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while size:
        block = file.read(min(size, AT_ONCE))
        if not block:
            raise DataError("A tar became shorter while it was being read: run again.")
        size -= len(block)
        yield block


def _copy(source: Folder, name: str, path: Path) -> None:
    with source.open(name) as file, path.open("wb") as made:
        while block := file.read(AT_ONCE):
            made.write(block)


def _same_or_put(target: Folder, name: str, write: Callable[[Path], None]) -> None:
    """Write a file to the target, unless it is already there: an index of it stays valid."""
    with scratch() as place:
        path = place / "file"
        write(path)
        if target.size(name) == path.stat().st_size:
            with target.open(name) as there, path.open("rb") as here:
                if hashlib.file_digest(there, "sha256").digest() == hashlib.file_digest(here, "sha256").digest():  # type: ignore[arg-type]
                    return
        target.put(name, path)
