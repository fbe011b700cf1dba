"""Copies the user's own test sets into the store, so that every machine has them and a result names what it was measured on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from datacomp_core.artifacts import OWN_SUITE, EvalSets, Spec
from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, step
from datacomp_core.store.content import digest, marks

PIN = 16
BLOCK = 8 << 20


class OwnSet(Spec):
    """One test set: its folder in the data directory and its full path. The digits of its content are its identity."""

    pins_files: ClassVar[bool] = True
    folder: str = Field(min_length=1, description="Its folder in the data directory.")
    place: str = Field(min_length=1, description="`PATH#DIGITS`: its full path and the digits of its content hash.")


class OwnSetsSpec(Spec):
    """The test sets to copy."""

    sets: tuple[OwnSet, ...] = Field(min_length=1, description="The sets.")

    def label(self) -> str:
        return "own"


def root_of(data: str) -> str:
    """The full name of a folder or bucket."""
    return data.rstrip("/") if "://" in data else str(Path(data).expanduser().resolve())


def pinned(root: str, folders: Sequence[str]) -> tuple[OwnSet, ...]:
    """Return the sets in these folders of `root` with the digits of their content. SpecError if one does not exist."""
    return tuple(OwnSet(folder=one, place=f"{root}/{one}#{_digits(f'{root}/{one}')}") for one in dict.fromkeys(folders))


def are_of(sets: Sequence[OwnSet], root: str, folders: Sequence[str]) -> bool:
    """Whether `sets` are the sets in these folders of `root`, already pinned."""
    return [one.place.rpartition("#")[0] for one in sets] == [f"{root}/{one}" for one in dict.fromkeys(folders)]


def _digits(place: str) -> str:
    try:
        found = marks(Folder(place))
    except (DatacompError, OSError) as problem:
        raise SpecError(f"Cannot read the test set {place}: {problem}") from problem
    if not found:
        raise SpecError(f"No test set exists at {place}: give the folder that contains your sets, one folder per set.")
    return digest(found)[:PIN]


@step("evalsets", version=1, name=lambda spec: spec.label())
def bring_own_sets(spec: OwnSetsSpec, *, out: Folder, progress: Progress = NO_PROGRESS) -> EvalSets:
    """Copy every file of every set. DataError if a set has changed since it was pinned."""
    copied = 0
    for one in spec.sets:
        place, _, digits = one.place.rpartition("#")
        source, target = Folder(place), out / one.folder
        if digest(marks(source))[:PIN] != digits:
            raise DataError(f"{place} is not the requested test set: it has changed. Run the command again.")
        sizes = source.files()
        progress.start(sum(sizes.values()), "bytes")
        for name, size in sizes.items():
            _copy(source, name, target)
            progress.advance(size)
        copied += len(sizes)
    return EvalSets(suite=OWN_SUITE, num_tasks=len(spec.sets), counts={"files": copied})


def _copy(source: Folder, name: str, target: Folder) -> None:
    if target.exists(name):
        return
    with target.writing(name) as path, source.open(name) as read, path.open("wb") as written:
        shutil.copyfileobj(read, written, BLOCK)
