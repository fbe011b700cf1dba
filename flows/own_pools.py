"""What the store knows of a pool of one's own: how it was made, and which columns of its metadata have no value."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from datacomp_core.artifacts import Pool
from datacomp_core.parts import METADATA
from datacomp_core.settings import settings
from datacomp_core.source import Source
from tasks.running import store, stored

OWN = ("byod", "adopted", "folder")
"""The kinds of pools of one's own, as `scale` of their specs."""


def kind_of(address: str) -> str:
    """The kind of a stored pool: a scale, or one of OWN; empty if the store has no such pool."""
    record = store().record(address)
    return str((record.spec if record else {}).get("spec", {}).get("scale", ""))


def empty_columns(address: str, columns: Iterable[str]) -> frozenset[str]:
    """Those of `columns` without a value in any row of a stored pool of one's own; none for any other pool."""
    wanted = frozenset(columns)
    return _empty(settings().store_url, address, wanted) if wanted and kind_of(address) in OWN else frozenset()


@lru_cache(maxsize=256)
def _empty(store_url: str, address: str, columns: frozenset[str]) -> frozenset[str]:
    """What lies at an address does not change, so each question is asked once in a process."""
    source = Source(store().folder(stored(Pool, address)) / METADATA)
    return source.empty(source.parts(), columns)
