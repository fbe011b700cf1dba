"""Filters images by size. Reference: `min(width, height) >= 200` of `basic_filter`."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, register

WIDTH, HEIGHT = "original_width", "original_height"


@register("image_size")
class ImageSize(RowFilter):
    """Keeps images whose shorter side has at least this many pixels, as recorded by the crawler."""

    shorter_side_at_least: int = Field(default=200, ge=1, description="Pixels; the reference's basic filter requires 200.")

    def columns(self) -> frozenset[str]:
        return frozenset({WIDTH, HEIGHT})

    def title(self) -> str:
        return f"shorter side of {self.shorter_side_at_least} px or more"

    def reason(self) -> str:
        return f"shorter side under {self.shorter_side_at_least} px"

    def expression(self) -> pl.Expr:
        # Not min_horizontal: it skips nulls, and half a size is none.
        return (pl.col(WIDTH) >= self.shorter_side_at_least) & (pl.col(HEIGHT) >= self.shorter_side_at_least)
