"""Defines the errors that users can cause or meet, each as one sentence: what, where, what to do.

Every error a user can cause or meet derives from `DatacompError`; the command line prints its message alone and exits
with its `exit_status`. A broken rule of our own is an `assert`, and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from datacomp_core.library_messages import plain_message
from datacomp_core.redaction import redact
from datacomp_core.torch_files import ADVICE, why_unreadable


class DatacompError(Exception):
    """Base of all errors that are shown to the user as one sentence. Secrets in urls and harmful library advice are removed."""

    exit_status = 1

    def __str__(self) -> str:
        return plain_message(redact(super().__str__()))


class SpecError(DatacompError, ValueError):
    """The request itself is wrong: an unknown name, a field out of range. Nothing was started; retrying is useless."""

    exit_status = 2


class StoreError(DatacompError):
    """The store cannot be read, written or trusted."""


class DiskFullError(StoreError):
    """No space is left. Waiting does not help, so it is never retried."""

    def __init__(self, where: object) -> None:
        super().__init__(f"The disk is full at {where}: free some space and run again; finished work is kept.")


class DataError(DatacompError):
    """Input data of a step is missing, broken or different from its record."""


class MissingFileError(DataError):
    """The store answered that this file does not exist. Any other read failure is a StoreError, because existence is unknown."""


class IncompleteError(DatacompError):
    """A step ended with more losses than its spec tolerates."""


class MissingLibraryError(DatacompError):
    """A required library cannot be imported."""


class LostProcessError(DatacompError):
    """A process of a step was killed, or its machine was lost. A retry resumes where it stopped."""


class StoppedError(DatacompError):
    """The run was cancelled during this step. Finished work is kept."""


LONG = 500
"""The length from which an error shortens a list of names, in characters."""
NEAREST = 3


def unknown(what: str, given: str, known: Iterable[str]) -> SpecError:
    """The one form in which an unknown name is refused: it, the nearest one, and all known ones; of a long list three."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(", ".join(names)) > LONG:
        return SpecError(f"Unknown {what} {given!r}.{hint} Nearest of {len(names)}: {', '.join(nearest(given, names))}.")
    return SpecError(f"Unknown {what} {given!r}.{hint} Known: {', '.join(names) or 'none'}.")


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """The three names that are most like `given`, the nearest first."""
    return difflib.get_close_matches(given, sorted(known), n=NEAREST, cutoff=0.0)


def tally_of(counts: Mapping[str, int]) -> str:
    """Counts by reason, the largest first: `dns 12, timeout 3`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered if count)


def short_text(problem: BaseException) -> str:
    """Return the type of a library's exception and the first line of its text (two lines if the first ends with a colon).
    Advice of torch and numpy is replaced by ours.
    """
    if ADVICE.search(str(problem)):
        return why_unreadable(problem)
    lines = [line.strip() for line in plain_message(str(problem)).splitlines() if line.strip()]
    if not lines:
        return type(problem).__name__
    told = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(problem).__name__}: {told[:300]}"
