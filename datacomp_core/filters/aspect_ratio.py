"""Filters images by aspect ratio, against banners. Reference: `max(width, height) / min(width, height) <= 3.0` of
`basic_filter`."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from datacomp_core.filters.base import RowFilter, register
from datacomp_core.filters.image_size import HEIGHT, WIDTH


@register("aspect_ratio")
class AspectRatio(RowFilter):
    """Keeps images with at most this ratio of the longer to the shorter side."""

    at_most: float = Field(default=3.0, ge=1, allow_inf_nan=False, description="Longer side / shorter side.")

    def columns(self) -> frozenset[str]:
        return frozenset({WIDTH, HEIGHT})

    def title(self) -> str:
        return f"aspect ratio of {self.at_most:g} or less"

    def reason(self) -> str:
        return f"aspect ratio over {self.at_most:g}"

    def expression(self) -> pl.Expr:
        width, height = pl.col(WIDTH).cast(pl.Float64), pl.col(HEIGHT).cast(pl.Float64)
        missing = width.is_null() | height.is_null()
        ratio = pl.max_horizontal(width, height) / pl.min_horizontal(width, height)
        return pl.when(~missing).then((ratio <= self.at_most) & ratio.is_not_nan())
