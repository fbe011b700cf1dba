"""Defines `SubsetSpec`: which pairs of a pool to train on, by a recipe or a filter, and what of the pool that filter reads."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, TypeAdapter, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError
from datacomp_core.filters import AllOf, CaptionsOf, Everything, Filter, WholeFilter
from datacomp_core.recipes.base import recipe
from datacomp_core.recipes.load import resolved
from datacomp_core.registry import RECIPES
from datacomp_core.scores import Score, score_of
from datacomp_core.selection.filter_evaluator import FilterNode, walk

FILTER: TypeAdapter[Filter] = TypeAdapter(WholeFilter)


class SubsetSpec(Spec):
    """Which pairs of the pool to train on: a recipe by name, or a custom filter. Only the filter is its identity."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"recipe"})
    recipe: str = Field(
        default="no_filter",
        min_length=1,
        description="A known recipe, which includes its filter, or a name for the filter below.",
    )
    filter: WholeFilter = Field(default_factory=Everything, description="The filter. Omit it if the recipe is a known one.")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """A known recipe brings its filter, so that the address follows what is done and not what it is called."""
        if not isinstance(given, dict):
            return given
        own = FILTER.validate_python(resolved(given["filter"])) if "filter" in given else None
        given = given if own is None else {**given, "filter": own}
        name = given.get("recipe")
        if not isinstance(name, str) or (own is not None and name.partition(":")[0] not in RECIPES):
            return given
        known = recipe(name).filter  # a name that is unknown is refused here; `listed:uids=mine.npy` brings its filter
        if own not in (None, known):
            raise SpecError(f"{name!r} is a known recipe with a different filter: give your filter another name.")
        return {**given, "filter": known}

    def label(self) -> str:
        return self.filter.label().replace("-", "_")

    def scores(self) -> tuple[Score, ...]:
        """The scores to compute that it reads, each once."""
        return scores_of(self.filter)

    def columns(self) -> frozenset[str]:
        """The columns of metadata and scores that it reads, of whichever captions."""
        named = named_captions(self.filter).values()
        return whole_tree(self.filter).columns().union(*(each.columns() for some in named for each in some))

    def captions(self) -> tuple[str, ...]:
        """The sources of captions that it names, sorted."""
        return tuple(named_captions(self.filter))

    def scores_of_captions(self, captions: str) -> tuple[Score, ...]:
        """The scores to compute of the pairs with the captions of a source, each once."""
        return scores_of_named(self.filter, captions)

    def every_score(self) -> tuple[Score, ...]:
        """All scores to compute, of whichever captions."""
        return (*self.scores(), *(score for name in self.captions() for score in self.scores_of_captions(name)))

    def columns_of_pool(self) -> frozenset[str]:
        """The columns of metadata, embeddings and captions that its filters and its scores to compute read."""
        named = [each for some in named_captions(self.filter).values() for each in some]
        return columns_of_pool(self.filter).union(*(columns_of_pool(each) for each in named))

    def features(self) -> frozenset[str]:
        """The prefixes of the features (`l14` of `l14_img`) that its filters and its scores to compute read."""
        filters = [placed.filter.feature_prefix() for placed in walk(FilterNode("0", whole_tree(self.filter)))]
        keys = [key.rpartition("_")[0] for score in self.every_score() for key in score.feature_keys()]
        return frozenset(filters + keys) - {""}

    def needs_features(self) -> bool:
        """Whether it reads features of images or captions, which embedding the pool makes."""
        return any("features" in score.needs for score in self.every_score()) or any(
            "features" in type(placed.filter).model_fields for placed in walk(FilterNode("0", whole_tree(self.filter)))
        )


def scores_of(wanted: Filter) -> tuple[Score, ...]:
    """The scores to compute that a filter reads, each once; not those of captions that it names."""
    return _scores_in(whole_tree(wanted).columns())


def scores_of_named(wanted: Filter, captions: str) -> tuple[Score, ...]:
    """The scores to compute that a filter reads of the captions of a source, each once."""
    return _scores_in(frozenset[str]().union(*(each.columns() for each in named_captions(wanted).get(captions, ()))))


def columns_of_pool(wanted: Filter) -> frozenset[str]:
    """The columns that a filter and its scores to compute read, without these scores; not those of captions that it names."""
    scores = scores_of(wanted)
    made = {score.full_name for score in scores}
    return (whole_tree(wanted).columns() - made).union(*(score.columns() for score in scores))


def _scores_in(columns: frozenset[str]) -> tuple[Score, ...]:
    found = (score_of(column) for column in sorted(columns))
    return tuple(score for score in found if score is not None)


def whole_tree(wanted: Filter) -> Filter:
    """A sample is drawn last, from the survivors of its filter."""
    inner = wanted.draws_from()
    return wanted if inner is None else AllOf.model_construct(filters=(inner, wanted))


def named_captions(tree: Filter) -> dict[str, list[Filter]]:
    """The filters that read the captions of a source by name, by that name, sorted."""
    found = dict[str, list[Filter]]()
    for placed in walk(FilterNode("0", tree)):
        if isinstance(placed.filter, CaptionsOf):
            found.setdefault(placed.filter.captions, []).append(placed.filter.filter)
    return dict(sorted(found.items()))
