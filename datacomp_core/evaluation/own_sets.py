"""Test sets of one's own, brought into the store: whoever evaluates has them, and a result says what it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from datacomp_core.artifacts import EvalSets, Spec
from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.store import Folder, step
from datacomp_core.store.content import digest, marks

NO_PROGRESS = NoProgress()
SUITE = "custom"
PIN = 16
BLOCK = 8 << 20


class OwnSet(Spec):
    """One test set: its folder below those of all sets, and where it lies. The digits of its content are its identity."""

    pins_files: ClassVar[bool] = True
    folder: str = Field(min_length=1, description="Its folder below the data directory.")
    place: str = Field(min_length=1, description="`PLACE#DIGITS`: where it lies, and the digits of its content.")


class OwnSetsSpec(Spec):
    """Which test sets."""

    sets: tuple[OwnSet, ...] = Field(min_length=1, description="The sets.")

    def label(self) -> str:
        return "own"


def root_of(data: str) -> str:
    """A folder or bucket by its whole name."""
    return data.rstrip("/") if "://" in data else str(Path(data).expanduser().resolve())


def pinned(root: str, folders: Sequence[str]) -> tuple[OwnSet, ...]:
    """The sets in these folders below `root`, with the digits of their content. SpecError for one that is not there."""
    return tuple(OwnSet(folder=one, place=f"{root}/{one}#{_digits(f'{root}/{one}')}") for one in dict.fromkeys(folders))


def are_of(sets: Sequence[OwnSet], root: str, folders: Sequence[str]) -> bool:
    """Whether these are the sets in these folders below `root`, pinned before."""
    return [one.place.rpartition("#")[0] for one in sets] == [f"{root}/{one}" for one in dict.fromkeys(folders)]


def _digits(place: str) -> str:
    try:
        found = marks(Folder(place))
    except (DatacompError, OSError) as problem:
        raise SpecError(f"Cannot read the test set {place}: {problem}") from problem
    if not found:
        raise SpecError(f"There is no test set at {place}: give the folder in which your sets lie, one folder a set.")
    return digest(found)[:PIN]


@step("evalsets", version=1, name=lambda spec: spec.label())
def bring_own_sets(spec: OwnSetsSpec, *, out: Folder, progress: Progress = NO_PROGRESS) -> EvalSets:
    """The sets, a folder each, with every file they have. DataError if one is no longer what it was when it was asked for."""
    copied = 0
    for one in spec.sets:
        place, _, digits = one.place.rpartition("#")
        source, target = Folder(place), out / one.folder
        if digest(marks(source))[:PIN] != digits:
            raise DataError(f"{place} is not the test set that was asked for: it has changed. Run the command again.")
        sizes = source.files()
        progress.start(sum(sizes.values()), "bytes")
        for name, size in sizes.items():
            _copy(source, name, target)
            progress.advance(size)
        copied += len(sizes)
    return EvalSets(suite=SUITE, num_tasks=len(spec.sets), counts={"files": copied})


def _copy(source: Folder, name: str, target: Folder) -> None:
    if target.exists(name):
        return
    with target.writing(name) as path, source.open(name) as read, path.open("wb") as written:
        while block := read.read(BLOCK):
            written.write(block)
