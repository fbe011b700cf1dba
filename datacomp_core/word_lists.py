"""Word lists that filters read from a file; in a spec their names carry the first digits of their sha256, as vectors' do."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from datacomp_core import pinned_files
from datacomp_core.errors import DataError

NAMED = ("imagenet21k",)
FILES = (".txt", ".json")


def pin_word_list(name: str) -> str:
    """Return the name with the digits of its file's hash, if it is a file. SpecError if it is neither known nor a file."""
    return pinned_files.pin_file(name, name, noun="word list", plain="a word list", known=NAMED, endings=FILES)


TextsName = Annotated[str, AfterValidator(pin_word_list)]


def texts(name: str) -> str:
    """A list's file as text. DataError if it is not the one the name was made with."""
    path, _, digits = name.partition("#")
    try:
        return pinned_files.content(path, path, digits).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not text in UTF-8: {problem}") from problem
