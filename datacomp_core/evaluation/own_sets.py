"""Copies the user's own test sets into the store, so that every machine has them and a result names what it was measured on."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from datacomp_core.artifacts import OWN_SUITE, EvalSets, Spec
from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.evaluation import hf_cache
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, step
from datacomp_core.store.content_marks import digest, marks

PIN = 16
BLOCK = 8 << 20


class OwnSet(Spec):
    """One test set: its folder in the data directory and its full path. The digits of its content are its identity."""

    pins_files: ClassVar[bool] = True
    folder: str = Field(min_length=1, description="Its folder in the data directory.")
    place: str = Field(min_length=1, description="`PATH#DIGITS`: its full path and the digits of its content hash.")
    cached_as: str = Field(
        default="", description="Protocol of a set in the cache of `datasets`, whose files are in several folders of the cache."
    )

    def files(self) -> tuple[Folder, list[str], str]:
        """The folder of its files, their names, and the folder that has them in the data directory."""
        place = Folder(self.place.rpartition("#")[0] or self.place)
        if self.cached_as:
            return *hf_cache.files_to_copy(place, self.cached_as), self.folder.rstrip("/").rpartition("/")[0]
        return place, list(place.files()), self.folder


class OwnSetsSpec(Spec):
    """The test sets to copy."""

    sets: tuple[OwnSet, ...] = Field(min_length=1, description="The sets.")

    def label(self) -> str:
        return "own"


def root_of(data: str) -> str:
    """The full name of a folder or bucket."""
    return data.rstrip("/") if "://" in data else str(Path(data).expanduser().resolve())


def pin_sets(root: str, protocols: Mapping[str, str]) -> tuple[OwnSet, ...]:
    """Return the sets in some folders of `root` with the digits of their content; `protocols` are their tasks', by folder.
    SpecError if one does not exist.
    """
    return tuple(_pinned(f"{root}/{folder}", folder, protocol) for folder, protocol in protocols.items())


def are_sets_in(sets: Sequence[OwnSet], root: str, folders: Iterable[str]) -> bool:
    """Whether `sets` are the sets in these folders of `root`, already pinned."""
    return [one.place.rpartition("#")[0] for one in sets] == [f"{root}/{one}" for one in folders]


def _pinned(place: str, folder: str, protocol: str) -> OwnSet:
    cached = protocol in hf_cache.PICTURES and hf_cache.is_cached(Folder(place))
    if not cached and f"/{hf_cache.CACHE}/" in f"/{folder}":
        known = " or ".join(sorted(hf_cache.PICTURES))
        raise SpecError(f"{place} is a set in the cache of `datasets`: add `protocol: {known}` to its row of the tasks.")
    one = OwnSet(folder=folder, place=place, cached_as=protocol if cached else "")
    try:
        found = _digits(one)
    except (DatacompError, OSError) as problem:
        raise SpecError(f"Cannot read the test set {place}: {problem}") from problem
    if not found:
        raise SpecError(f"No test set exists at {place}: give the folder that contains your sets, one folder per set.")
    return one.model_copy(update={"place": f"{place}#{found}"})


def _digits(one: OwnSet) -> str:
    """Digits of the content of a set; empty if it has no files."""
    source, names, _ = one.files()
    found = marks(source, only=names)
    return digest(found)[:PIN] if found else ""


@step("evalsets", version=1, name=lambda spec: spec.label())
def bring_own_sets(spec: OwnSetsSpec, *, out: Folder, progress: Progress = NO_PROGRESS) -> EvalSets:
    """Copy every file of every set. DataError if a set has changed since it was pinned."""
    copied = 0
    for one in spec.sets:
        place, _, digits = one.place.rpartition("#")
        if _digits(one) != digits:
            raise DataError(f"{place} is not the requested test set: it has changed. Run the command again.")
        source, names, folder = one.files()
        details = source.details()
        progress.start(sum(details[name][0] for name in names), "bytes")
        for name in names:
            _copy(source, name, out / folder)
            progress.advance(details[name][0])
        copied += len(names)
    return EvalSets(suite=OWN_SUITE, num_tasks=len(spec.sets), counts={"files": copied})


def _copy(source: Folder, name: str, target: Folder) -> None:
    if target.exists(name):
        return
    with target.writing(name) as path, source.open(name) as read, path.open("wb") as written:
        shutil.copyfileobj(read, written, BLOCK)
