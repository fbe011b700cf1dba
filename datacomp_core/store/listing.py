"""Verifies listings: compares a store's listing with what is known, and repeats it before drawing a conclusion. A failed
listing is an error. A successful listing may still be empty or outdated (an overloaded gateway, an eventually consistent store,
an unmounted disk): a single listing never marks anything as lost, complete or unused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from datacomp_core.errors import StoreError
from datacomp_core.store.folder import FileStat, Folder

T = TypeVar("T")

PAUSES = (0.1, 0.4, 1.5)
"""Seconds before a listing is requested again."""
SAMPLED = 20


def ask_until_equal(ask: Callable[[], T], where: object) -> T:
    """An answer that is given twice in a row. StoreError if the store does not agree with itself."""
    before = ask()
    for pause in PAUSES:
        now = ask()
        if now == before:
            return now
        before = now
        time.sleep(pause)
    raise StoreError(f"Listings of {where} differ although nothing should change there: run again.")


def complete(folder: Folder, known: dict[str, FileStat], *, is_all_known: bool = False) -> dict[str, int]:
    """The files below a folder that was just written. `known` are those that this process wrote and did not remove.

    One listing that names exactly the known files is believed only if nobody else wrote there before (`is_all_known`).
    """
    found = folder.files()
    if is_all_known and known and _fits(found, known) and found.keys() == known.keys():
        return found

    def ask() -> dict[str, int]:
        return folder.files()

    for pause in PAUSES:
        found = ask_until_equal(ask, folder)
        hidden = [path for path in known if path not in found]
        if not is_any_there(folder, hidden):
            return found
        time.sleep(pause)
    raise StoreError(f"A listing of {folder} omits existing files: run again.")


def hash_files(folder: Folder, known: dict[str, FileStat], *, is_all_known: bool = False) -> list[FileStat]:
    """Every file below `folder` with its hash: taken from `known` where size agrees, else read once. See `complete`.

    StoreError if one of `known` is not there.
    """
    found = []
    there = complete(folder, known, is_all_known=is_all_known)
    if gone := sorted(known.keys() - there.keys()):
        raise StoreError(
            f"{len(gone)} files that this run wrote are gone from {folder}, {gone[0]} first: another process removed them. "
            "Run it again."
        )
    for path, size in there.items():
        stat = known.get(path)
        found.append(stat if stat and stat.size == size else FileStat(path, size, hash_of(folder, path)))
    return found


def hash_of(folder: Folder, path: str) -> str:
    """The sha256 of a file, read by its blocks."""
    with folder.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def contradiction(folder: Folder, wanted: dict[str, int]) -> str:
    """How the files below a folder differ from `wanted` sizes, in a few words; empty if all are there.

    What is listed is asked for again, and what is not listed is asked for by name, before it is called gone. StoreError if the
    store cannot be read, or contradicts itself.
    """
    found = folder.files()
    suspects, is_lying = _suspects(found, wanted), False
    for pause in PAUSES if suspects else ():
        time.sleep(pause)
        found = folder.files()
        suspects = _suspects(found, wanted)
        if not suspects:
            return ""
        is_lying = any(folder.size(path) == wanted[path] for path in _some(suspects))
    if is_lying:
        raise StoreError(f"A listing of {folder} omits existing files: run again.")
    if not suspects:
        return ""
    there = found.get(suspects[0])
    return f"{suspects[0]} is gone" if there is None else f"{suspects[0]} has {there} bytes instead of {wanted[suspects[0]]}"


def _suspects(found: dict[str, int], wanted: dict[str, int]) -> list[str]:
    return [path for path, size in wanted.items() if found.get(path) != size]


def is_any_there(folder: Folder, paths: Collection[str]) -> bool:
    """Whether any of some files exists although a listing does not name it; of many files only a sample is tested."""
    return any(folder.exists(path) for path in _some(paths))


def _some(paths: Collection[str]) -> list[str]:
    return sorted(paths)[:: max(1, len(paths) // SAMPLED)]


def _fits(found: dict[str, int], known: dict[str, FileStat]) -> bool:
    return all(found.get(path) == stat.size for path, stat in known.items())
