"""Filters with captions other than the pool's: filters read the new text, and rows without a caption by the policy are
dropped."""

from __future__ import annotations

import logging
from dataclasses import replace

import polars as pl

from datacomp_core.filters import AllOf, Filter
from datacomp_core.filters.base import RowFilter
from datacomp_core.parts import FEATURES, SCHEMA, SCORES, scan_tables
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores import score_of
from datacomp_core.scores.column_of import ColumnOf
from datacomp_core.store import Folder

log = logging.getLogger(__name__)


class HasCaption(RowFilter):
    """The rows that a caption policy gives a caption. Not for recipes: `with_captions` puts it before every filter."""

    kind: str = "has_caption"

    def expression(self) -> pl.Expr:
        return pl.col("caption_source").is_not_null()

    def columns(self) -> frozenset[str]:
        return frozenset({"caption_source"})

    def title(self) -> str:
        return "has a caption by the policy"

    def reason(self) -> str:
        return "no caption by the policy"


def captions_in(source: PoolSource, captioned: Folder | None) -> PoolSource:
    """The source with the captions of a policy instead of the pool's."""
    if captioned is None:
        return source
    features = (captioned / FEATURES, *source.features)
    return replace(source, scores=(*source.scores, captioned / SCORES), features=features, captioned=captioned)


def with_captions(tree: Filter) -> Filter:
    """The same filter for rows that have a caption."""
    inner = tree.filters if isinstance(tree, AllOf) and tree.filters[-1].is_outermost else (tree,)
    return AllOf.model_construct(filters=(HasCaption(), *inner))


def tell_outside_scores(source: PoolSource, part: str, tree: Filter) -> None:
    """Warn of scores from outside: whether they are of the picture alone, or of the pool's own captions too, is not known."""
    if source.captioned is None:
        return
    own = scan_tables(source.captioned / SCORES, f"{part}.parquet").collect_schema().names()
    if "text" not in own:  # a draw, which changes nothing that a filter reads
        return
    known = {*own, *SCHEMA.names()}
    for name in sorted(tree.columns() - known):
        made = score_of(name)
        if made is None or isinstance(made, ColumnOf):
            log.warning(
                "The score %s comes from outside and is used as it is, for rows with another caption too: that is right if it is "
                "of the picture alone. A score of picture and caption must be computed again.",
                name,
            )
