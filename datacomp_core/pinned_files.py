"""Names of small files in a spec: a name carries the first digits of its file's sha256 (`mine.npy#3fa2b1c04d5e`), so that an
address follows the content and not the file's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from datacomp_core.driver_files import fetch_from_driver
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.file_access import require_allowed
from datacomp_core.store import Folder

DIGITS = 12


def pin_file(name: str, file: str, *, noun: str, plain: str, known: Collection[str], endings: tuple[str, ...]) -> str:
    """Return the name with the digits of its `file`, unless it is a `known` name or has them. SpecError if it is neither a known
    name nor a readable file with one of the `endings`; the message names the `noun`, and what to give in `plain` words.
    """
    if name in known or name.partition("#")[2]:
        return name
    require_allowed(name)
    if not file.endswith(endings):
        raise unknown(noun, name, [*known, f"a file ({', '.join(endings)})"])
    try:
        return f"{name}#{hashlib.sha256(read(file)).hexdigest()[:DIGITS]}"
    except DataError as problem:
        raise SpecError(f"{file} is not readable: give {plain}, or one of {', '.join(known)}.") from problem


def content(path: str, file: str, digits: str) -> bytes:
    """Return all bytes of a file. DataError if it cannot be read, or is not the one with these digits; `path` is its name."""
    data = read(file, digits)
    if not hashlib.sha256(data).hexdigest().startswith(digits):
        raise DataError(f"{path} is not the file that the recipe was made with (its sha256 does not begin with {digits}).")
    return data


def read(path: str, digits: str = "") -> bytes:
    """Return all bytes of a file by path or url, or of the one with these digits that a driver brought. DataError if it does not
    exist.
    """
    if digits and (data := fetch_from_driver(digits)) is not None:
        return data
    if "://" in path:
        folder, _, name = path.rpartition("/")
        return Folder(folder).read(name)
    return Folder(Path(path).parent).read(Path(path).name)
