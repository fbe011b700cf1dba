"""Describes the data to explore: a pool's tables and features, its pictures, its download, its captions, and methods on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datacomp_core.clip_sources import ModelSource
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder
from datacomp_core.subset_files import SubsetFile


@dataclass(frozen=True)
class Method:
    """A subset of the pool. `filter` is plain data as `explain.json` has it, None if it is not known."""

    name: str
    subset: SubsetFile
    address: str = ""
    filter: dict[str, Any] | None = None
    num_samples: int | None = None
    own_captions: bool = False
    """Whether the method saw captions other than the pool's; its filter then gives other results on the pool's own captions."""


@dataclass(frozen=True)
class Shards:
    """Where pictures are: a folder with an index, the folder of the tars, and the folder with the ledger, if there is one."""

    index: Folder
    tars: Folder
    ledger: Folder | None = None


@dataclass(frozen=True)
class ExploreSource:
    """See the module. `state` says what the folders contain now: a sample that was drawn from another state is drawn again."""

    name: str
    source: PoolSource
    state: str
    address: str = ""
    shards: Shards | None = None
    captions: tuple[Folder, ...] = ()
    methods: tuple[Method, ...] = ()
    models: dict[str, ModelSource] = field(default_factory=dict[str, ModelSource])
    """The CLIP of each prefix of features, for searches by text and by picture."""
    is_harmless: bool = False
    """Whether the pictures are known to be safe to show (those that this package contains)."""
