"""Builds the form of each deployment in Prefect's UI: the schema of its flow, reduced to what a person fills in. The
deployment fixes the scale. A recipe is chosen from a list, or given as text: a name with parameters, or your own filter in
YAML. A known recipe and a filter can therefore not both be given. Fields that a run needs are required, so the page does not
call them optional.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from prefect import Flow
from prefect.utilities.callables import ParameterSchema, parameter_schema

from datacomp_core.recipes import recipe
from datacomp_core.registry import RECIPES
from datacomp_core.scales import SCALES
from datacomp_core.selection.select import scores_of

EMBEDDED = "tiny"
NEEDED = ("scale", "recipe", "recipes", "seeds")
FROM_PYTHON = ("filter",)
"""Spec fields that no form shows, because YAML in `recipe` expresses the same."""

YAML_HELP = (
    "A name with parameters, such as `clip_score:score=l14,fraction=0.3`, or your own filter in YAML. Filters nest: "
    "{kind: all, filters: [{kind: words, at_least: 4}, {kind: top_fraction, score: SCORE, fraction: 0.4}]}. "
    "`name:` and `filter:` around it give it a name on the board."
)


def form(flow: Flow[..., Any], scale: str) -> ParameterSchema:
    """The parameter schema of a flow's deployment at one scale."""
    schema = deepcopy(parameter_schema(flow))
    for definition in schema.definitions.values():
        if set(definition.get("properties", {}).get("scale", {}).get("enum", ())) == set(SCALES):
            _narrow(definition, scale)
        _number(definition)
    return schema


def _number(definition: dict[str, Any]) -> None:
    """Give each field its place: the page sorts by it, and PostgreSQL does not keep the order of JSON objects."""
    for position, field in enumerate(definition.get("properties", {}).values()):
        field["position"] = position


def _narrow(definition: dict[str, Any], scale: str) -> None:
    """Return the models that a flow accepts as `spec` and that have a compute scale."""
    properties: dict[str, Any] = definition["properties"]
    for name in FROM_PYTHON:
        properties.pop(name, None)
    properties["scale"] = {**properties["scale"], "enum": [scale], "default": scale}
    if "recipe" in properties:
        properties["recipe"] = _recipe(properties["recipe"], scale)
    if "recipes" in properties:
        properties["recipes"]["items"] = _recipe(properties["recipes"]["items"], scale)
    needed = [name for name in NEEDED if name in properties]
    definition["required"] = list(dict.fromkeys([*definition.get("required", ()), *needed]))


def _recipe(field: dict[str, Any], scale: str) -> dict[str, Any]:
    kept = {name: value for name, value in field.items() if name in ("default", "title")}
    known = {"title": "A recipe", "enum": recipes_of(scale), "description": "`datacomp filter --list` describes what each keeps."}
    own = {"title": "Your own", "minLength": 1, "description": YAML_HELP.replace("SCORE", score_of(scale))}
    return {**kept, "description": "The filter.", "anyOf": [{"type": "string", **one} for one in (known, own)]}


def score_of(scale: str) -> str:
    """Return the CLIP score of a scale's own pool."""
    return "tiny" if scale == EMBEDDED else "l14"


def recipes_of(scale: str) -> list[str]:
    """Return the recipes that work on a scale's own pool: the embedded pool has no scores or features of CommonPool's models."""
    return [name for name in RECIPES if _models(name) <= ({"tiny"} if scale == EMBEDDED else {"b32", "l14"})]


def _models(name: str) -> set[str]:
    """The models whose scores or features a recipe reads."""
    wanted = recipe(name).filter
    written = " ".join(one.model_dump_json() for one in (wanted, *scores_of(wanted)))
    return {model for model in ("b32", "l14", "tiny") if re.search(rf"\b{model}\b|_{model}(_|\b)", written)}
