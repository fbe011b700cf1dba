"""Word lists that filters read from a file; in a spec their names carry the first digits of their sha256, as vectors' do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.exchange import brought
from datacomp_core.pins import require_allowed
from datacomp_core.store import Folder

NAMED = ("imagenet21k",)
FILES = (".txt", ".json")
PIN = 12


def pinned(name: str) -> str:
    """The name with the digits of its file's hash, if it is a file. SpecError if it is neither known nor there."""
    path, _, digits = name.partition("#")
    if name in NAMED or digits:
        return name
    require_allowed(name)
    if not path.endswith(FILES):
        raise unknown("word list", name, [*NAMED, "a file (.txt, .json)"])
    try:
        return f"{name}#{hashlib.sha256(read(path)).hexdigest()[:PIN]}"
    except DataError as problem:
        raise SpecError(f"{path} cannot be read: give the place of a word list, or one of {', '.join(NAMED)}.") from problem


TextsName = Annotated[str, AfterValidator(pinned)]


def texts(name: str) -> str:
    """A list's file as text. DataError if it is not the one the name was made with."""
    path, _, digits = name.partition("#")
    data = read(path, digits)
    if not hashlib.sha256(data).hexdigest().startswith(digits):
        raise DataError(f"{path} is not the file that the recipe was made with (its sha256 does not begin with {digits}).")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not text in UTF-8: {problem}") from problem


def read(path: str, digits: str = "") -> bytes:
    """All bytes of a file by path or url, or of the one with these digits that a driver brought. DataError if it is not there."""
    if digits and (data := brought(digits)) is not None:
        return data
    if "://" in path:
        folder, _, name = path.rpartition("/")
        return Folder(folder).read(name)
    return Folder(Path(path).parent).read(Path(path).name)
