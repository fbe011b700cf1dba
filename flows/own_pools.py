"""Reads what the store knows about a custom pool: how it was made, and which metadata columns have no value."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from datacomp_core.artifacts import Pool
from datacomp_core.parts import METADATA
from datacomp_core.pool_source import PoolSource
from datacomp_core.settings import settings
from tasks.run_step import store, stored

OWN = ("byod", "adopted", "folder")
"""The kinds of custom pools, as `scale` of their specs."""


def kind_of(address: str) -> str:
    """Return the kind of a stored pool: a scale, or one of OWN; empty if the store does not have the pool."""
    record = store().record(address)
    return str((record.spec if record else {}).get("spec", {}).get("scale", ""))


def empty_columns(address: str, columns: Iterable[str]) -> frozenset[str]:
    """Return those of `columns` without a value in any row of a stored custom pool; none for any other pool."""
    wanted = frozenset(columns)
    return _empty(settings().store_url, address, wanted) if wanted and kind_of(address) in OWN else frozenset()


@lru_cache(maxsize=256)
def _empty(store_url: str, address: str, columns: frozenset[str]) -> frozenset[str]:
    """Artifacts do not change, so each query runs once per process."""
    source = PoolSource(store().folder(stored(Pool, address)) / METADATA)
    return source.empty(source.parts(), columns)
