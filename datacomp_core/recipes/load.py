"""Loads recipes from a name or a file, with one sentence for each error.

A YAML or JSON file has `filter:` (a filter, or the name of a recipe, at any depth), optionally `name:` and `description:`.
A Python file registers filters, scores and recipes. `mine.py` means the one recipe (or filter) in it, `mine.py:name` for one
of several, and parameters follow: `mine.py:name:fraction=0.2`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.external_code import code_of, load_file
from datacomp_core.kind_registration import CODE, parse_kind
from datacomp_core.recipes.base import Recipe, RecipeRow, build_recipe, recipe
from datacomp_core.registry import FILTERS, RECIPES
from datacomp_core.untrusted_documents import parse_yaml, read_yaml

FILES = (".yaml", ".yml", ".json")
CODE_FILE = ".py"


def is_file(name: Any) -> bool:
    """Whether a recipe's name is the place of a file, or refers to one by a parameter."""
    if not isinstance(name, str) or is_text(name):
        return False
    kind, colon, _ = name.partition(":")
    return name.endswith((*FILES, CODE_FILE)) or f"{CODE_FILE}:" in name or (bool(colon) and kind not in RECIPES)


def load_recipe(given: str) -> Recipe:
    """A recipe by name (`basic_filter`, `clip_score:score=b32,fraction=0.2`), from a YAML, JSON or Python file, or as YAML.

    YAML is what a form sends: the text of a recipe file, or a bare filter (`kind: words`), which is named after its
    content. SpecError with one sentence for whatever is wrong.
    """
    if is_text(given):
        return _of_text(given)
    if _has_parameters(given):
        return recipe(given)
    if given.endswith(FILES):
        return _from_yaml(Path(given))
    if given.endswith(CODE_FILE) or f"{CODE_FILE}:" in given:
        return _from_code(given)
    return recipe(given)


def _has_parameters(given: str) -> bool:
    """Whether it is a known name with parameters, whose last value may be the place of a file: `listed:uids=mine.json`."""
    name, _, rest = given.partition(":")
    return "=" in rest and (name in RECIPES or name in FILTERS)


def resolved(tree: Any) -> Any:
    """A filter as plain data in which the names of recipes, at any depth, are replaced by their filters."""
    if isinstance(tree, str):
        return load_recipe(tree).filter
    if not isinstance(tree, Mapping):
        return tree
    found: dict[str, Any] = {**tree}
    if "filter" in found:
        found["filter"] = resolved(found["filter"])
    if isinstance(found.get("filters"), (list, tuple)):
        found["filters"] = [resolved(each) for each in found["filters"]]
    return found


def _from_yaml(path: Path) -> Recipe:
    try:
        content = _mapping(read_yaml(path), f"The recipe file {path}")
    except DataError as problem:
        what = "Cannot read the" if isinstance(problem.__cause__, OSError) else "The"
        raise SpecError(f"{what} recipe file {problem}") from problem
    if "filter" not in content:
        raise SpecError(f"The recipe file {path} needs a field `filter`: a filter, or the name of a recipe.")
    return _checked({"name": path.stem, **content}, f"Recipe file {path}")


def is_text(given: str) -> bool:
    """Whether a recipe is written out (YAML or JSON), not named: a name is one line without `: ` and braces."""
    return "\n" in given.strip() or given.lstrip().startswith("{") or ": " in given


def _of_text(text: str) -> Recipe:
    try:
        content = _mapping(parse_yaml(text, "The recipe"), "The recipe")
    except DataError as problem:
        raise SpecError(str(problem)) from problem
    if "kind" in content:
        content = {"filter": content}
    elif "filter" not in content:
        raise SpecError(
            "The recipe has neither a `kind` nor a `filter`: write a filter with its `kind`, or put `filter:` above it."
        )
    named = {"name": f"own-{hashlib.sha256(canonical(content['filter'])).hexdigest()[:6]}", **content}
    return _checked(named, "Recipe")


def _mapping(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SpecError(f"{what} is not a mapping: write `filter:` and below it a filter with its `kind`.")
    return content


def _checked(content: dict[str, Any], what: str) -> Recipe:
    try:
        return Recipe.model_validate(resolved(content))
    except ValidationError as problem:
        raise spec_error(problem, what) from problem
    except RecursionError:
        raise SpecError(f"{what} nests its filters too deeply.") from None


def canonical(value: Any) -> bytes:
    """The bytes that equal YAML values share, however they were laid out."""
    try:
        return json.dumps(value, sort_keys=True, default=str).encode()
    except TypeError:
        raise SpecError("The recipe has a field whose name is not text.") from None


def _from_code(text: str) -> Recipe:
    path, _, rest = text.partition(f"{CODE_FILE}:") if f"{CODE_FILE}:" in text else (text.removesuffix(CODE_FILE), "", "")
    module = load_file(path + CODE_FILE).__name__
    name, _, given = rest.partition(":")
    if "=" in name:
        name, given = "", rest
    rows: dict[str, RecipeRow] = RECIPES.added_by(module)
    filters: dict[str, Any] = FILTERS.added_by(module)
    offered = {**filters, **rows}
    if not offered:
        raise SpecError(f"{path}{CODE_FILE} does not register a filter or recipe: put @register(...) before one.")
    if not name:
        choice = rows or filters
        if len(choice) > 1:
            raise SpecError(f"{path}{CODE_FILE} has {', '.join(choice)}: name one, as in {path}{CODE_FILE}:{next(iter(choice))}.")
        [name] = choice
    if name not in offered:
        raise unknown(f"recipe in {path}{CODE_FILE}", name, offered)
    if name in rows:
        return build_recipe(rows[name], given, text)
    made = parse_kind(FILTERS, f"{name}:{CODE}={code_of(module)}" + (f",{given}" if given else ""))
    return Recipe(name=f"{name}:{given}" if given else name, description=_first_line(filters[name]), filter=made)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def spec_error(problem: ValidationError, what: str) -> SpecError:
    """The first thing that is wrong with a recipe, as one sentence that names the known words."""
    first = problem.errors()[0]
    where, context = [str(part) for part in first["loc"]], first.get("ctx", {})
    if first["type"] == "union_tag_invalid" and (kind := str(context["tag"])) in FILTERS:
        return SpecError(
            f"{what}{_place(where)}: {kind!r} decides how often a pair is used, so it must be the outermost filter: put the "
            "others into its field `filter`."
        )
    if first["type"] == "union_tag_invalid":
        return unknown(f"filter kind in {what}", str(context["tag"]), FILTERS)
    if first["type"] == "extra_forbidden":
        return unknown(f"field in {what}{_place(where[:-1])}", where[-1], _known_fields(where[:-1]))
    if first["type"] == "union_tag_not_found":
        return SpecError(f"{what}{_place(where)}: a filter needs a `kind`, one of {', '.join(sorted(FILTERS))}.")
    if isinstance(cause := context.get("error"), SpecError):
        return cause
    return SpecError(f"{what}{_place(where)}: {first['msg']} (given: {first['input']!r}).")


def _known_fields(where: Sequence[str]) -> list[str]:
    for part in reversed(where):
        if part in FILTERS:
            return list(FILTERS[part].model_fields)
    return list(Recipe.model_fields)


def _place(where: Sequence[str]) -> str:
    return f" at {'.'.join(where)}" if where else ""
