"""Lets a filter read the captions of one source, whatever the policy gives the samples: basic rules on the raw text, a CLIP score
on generated captions.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from datacomp_core.caption_sets import SOURCE_PATTERN
from datacomp_core.filters.base import AnyFilter, Filter, register


@register("captions_of")
class CaptionsOf(Filter):
    """Keeps what a filter keeps that reads the captions of one source and the scores of these pairs."""

    captions: str = Field(
        pattern=SOURCE_PATTERN, description="The source: a name of the given caption sets, or raw for the pool's own captions."
    )
    filter: Annotated[AnyFilter, Field(description="The filter that reads them; a source gives its first caption of a row.")]

    def columns(self) -> frozenset[str]:
        """None of the captions that other filters read; see `filter`."""
        return frozenset()

    def title(self) -> str:
        return f"{self.filter.title()} ({self.captions} captions)"

    def reason(self) -> str:
        return f"{self.filter.reason()} ({self.captions} captions)"

    def missing(self) -> str:
        columns = " or ".join(sorted(self.filter.columns())) or "value"
        return f"{self.filter.missing() or 'no ' + columns} ({self.captions} captions)"

    def expected_share(self, num_rows: int) -> float | None:
        return self.filter.expected_share(num_rows)

    def is_relative(self) -> bool:
        return self.filter.is_relative()

    def label(self) -> str:
        return f"{self.captions}_{self.filter.label()}"
