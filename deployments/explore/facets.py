"""Translates facets of the page into filters: the counted filter and the saved filter are the same. A facet that no filter can
express (part of a caption, the host of a url) is for viewing only, and the page says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.kind_registration import ControlFilter
from datacomp_core.untrusted_documents import yaml_text

MAX_FACETS = 40
MAX_VALUES = 500
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
AT_LEAST = {"words": ("words", "at_least"), "characters": ("characters", "at_least")}
COMPUTED = frozenset({*AT_LEAST, "aspect_ratio"})
"""Columns of numbers that the metadata lacks and for which there is a filter."""
Tree = dict[str, Any]


class _Facet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RangeFacet(_Facet):
    """A column of numbers: `at_least <= value < below`."""

    kind: Literal["range"]
    column: str = Field(max_length=200)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    below: float | None = Field(default=None, allow_inf_nan=False)


class ValuesFacet(_Facet):
    """A column of words: the value is one of `values`, or none of them."""

    kind: Literal["values"]
    column: str = Field(max_length=200)
    values: tuple[str, ...] = Field(min_length=1, max_length=MAX_VALUES)
    drop: bool = False


class ClusterFacet(_Facet):
    """Images in some clusters of the map, or in none of them."""

    kind: Literal["clusters"]
    clusters: tuple[Annotated[int, Field(ge=0, le=65534)], ...] = Field(min_length=1, max_length=MAX_VALUES)
    drop: bool = False


class MethodFacet(_Facet):
    """Selects the rows that a method kept, or dropped."""

    kind: Literal["method"]
    method: int = Field(ge=0)
    drop: bool = False


class TextFacet(_Facet):
    """Captions that contain some letters, ignoring case. For viewing only."""

    kind: Literal["text"]
    contains: str = Field(min_length=1, max_length=500)


Facet = Annotated[RangeFacet | ValuesFacet | ClusterFacet | MethodFacet | TextFacet, Field(discriminator="kind")]


class FacetSelection(_Facet):
    """The user's choice: an initial filter (plain data), and facets, all of which must hold."""

    base: Tree | None = None
    facets: tuple[Facet, ...] = Field(default=(), max_length=MAX_FACETS)


def range_filter(facet: RangeFacet) -> Tree:
    """Return the filter for a range of numbers. SpecError if no filter can express it."""
    parts: list[Tree] = []
    for bound, is_upper in ((facet.at_least, False), (facet.below, True)):
        if bound is not None and not (
            facet.column == "aspect_ratio" and bound <= 1
        ):  # every image is at least as long as it is wide
            asked = _at_least(facet.column, bound)
            parts.append({"kind": "not", "filter": asked} if is_upper else asked)
    if not parts:
        raise SpecError(f"The range of {facet.column} has no limits: give at least one.")
    return parts[0] if len(parts) == 1 else {"kind": "all", "filters": parts}


def _at_least(column: str, bound: float) -> Tree:
    if column in AT_LEAST:
        kind, field = AT_LEAST[column]
        return {"kind": kind, field: max(1, int(np.ceil(bound)))}
    if column == "aspect_ratio":  # the filter limits how long an image may be: longer is its opposite
        return {"kind": "not", "filter": {"kind": "aspect_ratio", "at_most": float(np.nextafter(bound, 0))}}
    return {"kind": "threshold", "score": column, "at_least": bound}


def language_filter(facet: ValuesFacet) -> Tree:
    some: list[Tree] = [{"kind": "language", "language": value} for value in facet.values]
    return _or_not(some[0] if len(some) == 1 else {"kind": "any", "filters": some}, drop=facet.drop)


def cluster_filter(facet: ClusterFacet, centroids: Path, targets: Path, prefix: str) -> Tree:
    """Return the filter for images whose nearest centroid is one of the chosen; `targets` is the file of these."""
    asked = {"kind": "image_clusters", "centroids": str(centroids), "target": str(targets), "features": prefix}
    return _or_not(asked, drop=facet.drop)


def method_filter(facet: MethodFacet, subset: str) -> Tree:
    return _or_not({"kind": "listed", "uids": subset}, drop=facet.drop)


def _or_not(asked: Tree, *, drop: bool) -> Tree:
    return {"kind": "not", "filter": asked} if drop else asked


def joined(base: Tree | None, filters: Sequence[Tree]) -> Tree:
    """Combine all facets into one filter."""
    parts = [*([base] if base is not None else []), *filters]
    if not parts:
        return {"kind": ControlFilter.EVERYTHING.value}
    return parts[0] if len(parts) == 1 else {"kind": "all", "filters": parts}


def recipe_text(name: str, tree: Tree, told: str) -> str:
    """Return the text of a recipe file. SpecError for an invalid name."""
    if not NAME.fullmatch(name):
        raise SpecError(f"{name[:90]!r} is not a valid recipe name: use letters, digits, dots, dashes and underscores.")
    return yaml_text({"name": name, "description": told, "filter": tree})
