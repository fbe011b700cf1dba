"""Recipes from a name or a file, and the one sentence that a wrong one gets.

A file is YAML or JSON: `filter:` (a filter, or the name of a recipe), optionally `name:` and `description:`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError

from datacomp_core.errors import SpecError, unknown
from datacomp_core.filters import All, Leaf, Not, SampleTo, SoftCap
from datacomp_core.filters import Any as AnyOf
from datacomp_core.recipes.baselines import Recipe, recipe

FILES = (".yaml", ".yml", ".json")
MODELS = (*get_args(Leaf), All, AnyOf, Not, SampleTo, SoftCap)
KINDS: dict[str, type[BaseModel]] = {model.model_fields["kind"].default: model for model in MODELS}


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by name (`basic_filter`, `clip_score:score=b32,fraction=0.2`) or from a YAML or JSON file."""
    if not name_or_path.endswith(FILES):
        return recipe(name_or_path)
    path = Path(name_or_path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(f"Cannot read the recipe file {path}: {problem.strerror or problem}.") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise SpecError(f"The recipe file {path} is not valid YAML: {' '.join(str(problem).split())}.") from problem
    if not isinstance(given, dict) or "filter" not in given:
        raise SpecError(f"The recipe file {path} needs a field `filter`: a filter, or the name of a recipe.")
    try:
        return Recipe.model_validate({"name": path.stem, **given})
    except ValidationError as problem:
        raise told(problem, f"Recipe file {path}") from problem


def told(problem: ValidationError, what: str) -> SpecError:
    """The first thing that is wrong with a recipe, as one sentence that names the known words."""
    first = problem.errors()[0]
    where, context = [str(part) for part in first["loc"]], first.get("ctx", {})
    if first["type"] == "union_tag_invalid":
        return unknown(f"filter kind in {what}", str(context["tag"]), KINDS)
    if first["type"] == "extra_forbidden":
        return unknown(f"field in {what}{_place(where[:-1])}", where[-1], _known_fields(where[:-1]))
    if first["type"] == "union_tag_not_found":
        return SpecError(f"{what}{_place(where)}: a filter needs a `kind`, one of {', '.join(sorted(KINDS))}.")
    if isinstance(cause := context.get("error"), SpecError):
        return cause
    return SpecError(f"{what}{_place(where)}: {first['msg']} (given: {first['input']!r}).")


def _known_fields(where: Sequence[str]) -> list[str]:
    for part in reversed(where):
        if part in KINDS:
            return list(KINDS[part].model_fields)
    return list(Recipe.model_fields)


def _place(where: Sequence[str]) -> str:
    return f" at {'.'.join(where)}" if where else ""
