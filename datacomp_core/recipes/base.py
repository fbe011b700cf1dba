"""Defines a recipe: a filter with a name. A row of the table builds one from a few parameters, all with defaults.

Written `clip_score:score=b32,fraction=0.2` wherever a name is accepted. The name is for people; the filter decides what is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field, ValidationError, validate_call

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError, unknown
from datacomp_core.external_code import code_of
from datacomp_core.filters import Everything, Filter, WholeFilter
from datacomp_core.kind_registration import first_fault, parse_kind, parse_parameters
from datacomp_core.registry import FILTERS, RECIPES

B = TypeVar("B", bound=Callable[..., Any])


class Recipe(Spec):
    """A filter with a name. `name` is for people; the filter alone decides what is kept."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"name", "description"})
    name: str = Field(min_length=1, description="Name on the leaderboard.")
    description: str = Field(default="", description="One sentence about it.")
    filter: WholeFilter = Field(default_factory=Everything, description="The filter.")

    def label(self) -> str:
        return self.name


class RecipeRow(NamedTuple):
    """One recipe: `build` makes its filter from keyword parameters, all with defaults."""

    name: str
    build: Callable[..., Any]
    description: str
    source: str


def register(name: str = "", *, description: str = "", source: str = "") -> Callable[[B], B]:
    """The decorator of a function that builds a filter. Its name and docstring are the recipe's, if none are given, and its
    package or file the source."""

    def decorate(build: B) -> B:
        told = description or (inspect.getdoc(build) or "").partition("\n")[0]
        row = RecipeRow(name or build.__name__, build, told, source or code_of(build.__module__) or "ours")
        RECIPES.add(row.name, row, build.__module__)
        return build

    return decorate


def recipe(text: str) -> Recipe:
    """The recipe of `name` or `name:parameter=value,...`, or a filter by its kind: `listed:uids=my.npy`."""
    name, colon, given = text.partition(":")
    if name not in RECIPES and colon and name in FILTERS:
        return Recipe(name=text, description=(FILTERS[name].__doc__ or "").partition("\n")[0], filter=parse_kind(FILTERS, text))
    if name not in RECIPES and name in FILTERS:
        first = next(iter(FILTERS[name].parameters()), "")
        raise SpecError(
            f"{name!r} is a filter, not a recipe: "
            + (f"write its parameters, as in {name}:{first}=VALUE, or " if first else "")
            + f"write `filter: {{kind: {name}}}` in a YAML file."
        )
    return build_recipe(RECIPES.find(name), given, text)


def build_recipe(row: RecipeRow, given: str, text: str) -> Recipe:
    """The recipe of a row with parameters `a=1,b=2`."""
    known = inspect.signature(row.build).parameters
    try:
        values = parse_parameters(given, text)
    except SpecError as problem:
        raise SpecError(f"{problem} {row.name} takes {', '.join(known) or 'no parameters'}.") from None
    for parameter in values:
        if parameter not in known:
            raise unknown(f"parameter of recipe {row.name}", parameter, known)
    try:
        made: Any = validate_call(row.build)(**values)
    except ValidationError as problem:
        if problem.errors()[0]["type"].startswith("missing"):
            missing = problem.errors()[0]["loc"][-1]
            raise SpecError(f"The recipe {row.name} needs {missing}: write {row.name}:{missing}=VALUE.") from problem
        where, wrong, why = first_fault(problem)
        raise SpecError(f"Recipe {text!r}: {where} is {wrong!r}: {why}.") from problem
    if not isinstance(made, (Filter, dict)):
        raise SpecError(f"The recipe {row.name} builds {type(made).__name__}: its function must return a filter.")
    return Recipe.model_validate({"name": text, "description": row.description, "filter": made})
