"""Binds a command's plain folder to one request, so that resuming never mixes the results of two. The request is the settings
and the content of all inputs: a folder that was started from other files is rejected, and the message names the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from datacomp_core.errors import SpecError
from datacomp_core.store import process
from datacomp_core.store.content_marks import Marks, describe_changes, digest, marks_as_json, read_marks
from datacomp_core.store.folder import Folder

REQUEST = "request.json"
INPUTS = "inputs.json"
CONTENT = "content"
STARTED_BY = "started_by"  # in INPUTS: the process that wrote the request

Marking = Callable[[Marks], Marks]
"""Gives the marks of an input, told the earlier ones."""


def bind_folder(
    folder: Folder,
    request: dict[str, Any],
    inputs: Mapping[str, Marking] | None = None,
    *,
    results: Iterable[str] = (),
) -> None:
    """Write down what a folder is being made from. SpecError if it was begun for something else, naming what differs.

    A run that ended before its first file was there has begun nothing. `results` are the folders in it whose files a later call
    takes as done: nothing tells what they were made from if the record is not there, so that is a SpecError too. What killed
    runs left unfinished in it is removed.
    """
    folder.sweep_left_behind()
    before = folder.read_json(REQUEST) if folder.exists(REQUEST) else None
    noted: dict[str, Any] = folder.read_json(INPUTS) if before is not None and folder.exists(INPUTS) else {}
    if process.is_left_behind(str(noted.get(STARTED_BY, ""))) and _is_unmade(folder):
        before, noted = None, {}
    earlier = {name: read_marks(noted.get(name, {})) for name in inputs or {}}
    now = {name: marking(earlier[name]) for name, marking in (inputs or {}).items()}
    given = json.loads(json.dumps(request | ({CONTENT: {name: digest(found) for name, found in now.items()}} if now else {})))
    if before is None:
        if lost := next((name for name in results if (folder / name).files()), ""):
            raise SpecError(
                f"{folder} has files in {lost}/ and no {REQUEST}, so their origin is unknown: choose an empty folder, or "
                "remove them."
            )
        marked = {name: marks_as_json(found) for name, found in now.items()}
        folder.write_json(INPUTS, {**marked, STARTED_BY: process.token()})
        folder.write_json(REQUEST, given)
        return
    told = _differing(before, given, earlier, now)
    if told:
        raise SpecError(
            f"{folder} was started with another {', '.join(told)} (see its {REQUEST}): give the same again to resume, or "
            "choose another folder."
        )


@contextmanager
def free_if_nothing_is_made(folder: Folder) -> Generator[None]:
    """Release a claimed folder if the block is refused before it has written its first file."""
    try:
        yield
    except Exception:
        if _is_unmade(folder):
            folder.remove(REQUEST)
            folder.remove(INPUTS)
        raise


def _is_unmade(folder: Folder) -> bool:
    """Whether a folder contains its request and nothing made; not a folder whose listing lacks even the request."""
    return {REQUEST} <= set(folder.files()) <= {REQUEST, INPUTS}


def _differing(
    before: dict[str, Any], given: dict[str, Any], earlier: Mapping[str, Marks], now: Mapping[str, Marks]
) -> list[str]:
    """Return the settings that differ, with the changes of their files."""
    names = sorted((before.keys() | given.keys()) - {CONTENT})
    told = [_inside(name, before.get(name), given.get(name)) for name in names if before.get(name) != given.get(name)]
    was, is_now = before.get(CONTENT) or {}, given.get(CONTENT) or {}
    for name in sorted(was.keys() | is_now.keys()):
        if was.get(name) != is_now.get(name):
            how = describe_changes(earlier.get(name, {}), now.get(name, {})) if earlier.get(name) else ""
            told.append(f"{name} ({how})" if how else name)
    return told


def _inside(name: str, before: Any, given: Any) -> str:
    """A setting that differs, with what differs in it where it has parts of the same names."""
    if not isinstance(before, dict) or not isinstance(given, dict) or not before.keys() & given.keys():
        return name
    inner = [_inside(key, before[key], given[key]) for key in sorted(before.keys() & given.keys()) if before[key] != given[key]]
    inner += [f"{key}, which was not recorded then" for key in sorted(given.keys() - before.keys())]
    inner += [f"{key}, which is not recorded now" for key in sorted(before.keys() - given.keys())]
    return f"{name} ({', '.join(inner)})"
