"""Decides whether a spec may read the files that it names, to pin them to their content.

A person's recipe may. A record that a stranger sent may not: its files are pinned already, and whoever reads it must not be made
to open a local file or to fetch a url.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from datacomp_core.errors import SpecError

_allowed: ContextVar[bool] = ContextVar("pinning_allowed", default=True)


@contextmanager
def refuse_unpinned() -> Generator[None]:
    """Within it a name that is not pinned is an error, and nothing is opened or fetched for it."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def require_allowed(name: str) -> None:
    """SpecError where files must not be read for a spec."""
    if not _allowed.get():
        raise SpecError(f"{name} is not pinned to its content, as every file in a record is.")
