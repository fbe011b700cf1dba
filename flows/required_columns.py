"""Checks that a pool has the columns and features that a filter reads, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datacomp_core.artifacts import Pool
from datacomp_core.caption_policy import CaptionPlan
from datacomp_core.errors import DataError, SpecError, nearest
from datacomp_core.parts import METADATA, SCHEMA
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.download_columns import COLUMNS as LEARNED
from datacomp_core.pool.tiny import TinyPoolSpec
from datacomp_core.pool_source import PoolSource
from datacomp_core.selection.subset_spec import SubsetSpec
from flows.candidate_pool import is_own
from flows.parameters import Preparation
from flows.public_scorers import RELEASED
from tasks.run_step import store

OF_CAPTIONS = frozenset({"text", "caption_source", "caption_changed"})
"""Columns that a caption policy makes."""


def require_columns(spec: SubsetSpec, preparation: Preparation, pool: Any, plan: CaptionPlan) -> None:
    """Raise SpecError for a column or features that the pool and the models of this run do not provide.

    DataError for a column that is empty in the whole pool, because every filter on it would drop everything.

    `pool` is an artifact if it is in the store; before that its columns follow from its kind.
    """
    encoders = preparation.embed.encoders if preparation.embeds else ()
    wanted = spec.columns_of_pool() | ({plan.policy.score} - {""} if plan.edits else set[str]())
    wanted -= {encoder.column for encoder in encoders} | (OF_CAPTIONS if plan.edits else set[str]())
    if not preparation.stored_pool and isinstance(preparation.pool, TinyPoolSpec):
        _require_not_released(wanted)
    source = PoolSource(store().folder(pool) / METADATA) if isinstance(pool, Pool) and preparation.stored_pool else None
    known = _columns(preparation, source)
    if known is None:
        return
    made = sorted(encoder.column for encoder in encoders)
    if missing := sorted(wanted - known):
        raise SpecError(_missing(spec, missing[0], of_pool(preparation), [*known, *made]))
    if source is not None and is_own(preparation):
        source.check_filled(source.parts(), wanted - set(LEARNED))
    _require_features(spec, preparation, [encoder.prefix for encoder in encoders], source)


def of_pool(preparation: Preparation) -> str:
    """The pool, for people."""
    if preparation.stored_pool:
        return preparation.stored_pool
    return "the embedded pool" if isinstance(preparation.pool, TinyPoolSpec) else f"CommonPool {preparation.scale}"


def _columns(preparation: Preparation, source: PoolSource | None) -> frozenset[str] | None:
    """The columns of a pool; None if it is not in the store, and its kind does not tell."""
    if source is not None:
        learned = LEARNED if is_own(preparation) else ()
        return frozenset({*source.columns(source.parts()[0]), *learned})
    told = not preparation.stored_pool and isinstance(preparation.pool, (TinyPoolSpec, HubPoolSpec))
    return frozenset(SCHEMA.names()) if told else None


def _require_not_released(wanted: Iterable[str]) -> None:
    if lacking := sorted(set(wanted) & RELEASED.keys()):
        raise DataError(
            f"The embedded pool has no {lacking[0]}: use its own score `tiny` (recipe clip_score_tiny), or give a model: "
            f"--embed {RELEASED[lacking[0]].prefix}=hf-hub:OWNER/NAME."
        )


def _missing(spec: SubsetSpec, column: str, pool: str, known: Iterable[str]) -> str:
    return (
        f"The filter {spec.recipe} reads the column {column!r}, but {pool} does not have it, and no model is given that computes "
        f"it. Nearest columns: {', '.join(nearest(column, known))}. Correct the name, or give a model: --embed "
        "NAME=checkpoints/ADDRESS or NAME=MODEL@FILE makes the column clip_NAME_similarity_score."
    )


def _require_features(spec: SubsetSpec, preparation: Preparation, made: list[str], source: PoolSource | None) -> None:
    """SpecError for features of a model that is not given; those of CommonPool's npz files are looked at when they are read."""
    wanted = spec.features() - set(made)
    if not wanted or (source is None and isinstance(preparation.pool, HubPoolSpec)):
        return
    there = {key.rpartition("_")[0] for key in source.embedding_keys(source.parts()[0])} if source is not None else set[str]()
    if lacking := sorted(wanted - there):
        raise SpecError(
            f"The filter {spec.recipe} reads features of the model {lacking[0]!r}, but {of_pool(preparation)} does not have "
            f"them, and no such model is given (given: {', '.join(sorted({*made, *there})) or 'none'}). Correct the name, or "
            f"give the model: --embed {lacking[0]}=checkpoints/ADDRESS or {lacking[0]}=MODEL@FILE."
        )
