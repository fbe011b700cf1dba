"""Combines filters. The order changes what is kept only for filters that rank the survivors; it always changes the reasons for
drops. Inside `AllOf` cheap filters run first, costly ones last and only on the survivors.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from datacomp_core.filters.base import AnyFilter, Filter, register


@register("all")
class AllOf(Filter):
    """Keeps what every filter keeps."""

    filters: Annotated[tuple[AnyFilter, ...], Field(min_length=1, description="AllOf of these must keep a row.")]

    def columns(self) -> frozenset[str]:
        return frozenset[str]().union(*(each.columns() for each in self.filters))

    def title(self) -> str:
        return " and ".join(_part(each) for each in self.filters)

    def reason(self) -> str:
        return " or ".join(each.reason() for each in self.filters)

    def expected_share(self, num_rows: int) -> float | None:
        """Expected share, of filters that know it: one that ranks survivors takes its share of the rest; of the others the
        strictest decides."""
        left = 1.0
        for each in self.filters:
            share = each.expected_share(num_rows)
            if share is not None:
                left = left * share if each.is_relative() else min(left, share)
        return left

    def label(self) -> str:
        return "+".join(each.label() for each in self.filters)


@register("any")
class AnyOf(Filter):
    """Keeps what at least one filter keeps."""

    filters: Annotated[tuple[AnyFilter, ...], Field(min_length=1, description="One of these must keep a row.")]

    def columns(self) -> frozenset[str]:
        return frozenset[str]().union(*(each.columns() for each in self.filters))

    def title(self) -> str:
        return " or ".join(_part(each) for each in self.filters)

    def reason(self) -> str:
        return f"none of: {self.title()}"

    def expected_share(self, num_rows: int) -> float | None:
        shares = [each.expected_share(num_rows) for each in self.filters]
        return None if None in shares else min(1.0, sum(share or 0.0 for share in shares))

    def label(self) -> str:
        return "any_" + "_".join(each.label() for each in self.filters)


@register("not")
class NotOf(Filter):
    """Keeps what a filter drops. A row without a value for that filter is also dropped."""

    filter: Annotated[AnyFilter, Field(description="Rows that it keeps are dropped.")]

    def columns(self) -> frozenset[str]:
        return self.filter.columns()

    def title(self) -> str:
        return f"not {_part(self.filter)}"

    def reason(self) -> str:
        return self.filter.title()

    def expected_share(self, num_rows: int) -> float | None:
        share = self.filter.expected_share(num_rows)
        return None if share is None else max(0.0, 1.0 - share)

    def label(self) -> str:
        return f"not_{self.filter.label()}"


def _part(each: Filter) -> str:
    return f"({each.title()})" if isinstance(each, (AllOf, AnyOf)) else each.title()
