"""The forms of the UI: what a person can fill in is what the flow accepts, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from datacomp_core.filters import AllOf
from datacomp_core.registry import RECIPES
from deployments.catalog import ROWS, DeploymentRow
from deployments.forms import form, recipes_of
from flows.parameters import ExperimentSpec, SweepSpec

WITH_FORM = [row for row in ROWS if row.parameters]


def errors(row: DeploymentRow, spec: dict[str, Any]) -> list[str]:
    schema = form(row.flow, row.scale).model_dump(exclude_unset=True)
    return [error.message for error in validate({"spec": spec}, schema)]


def row_of(name: str) -> DeploymentRow:
    return next(row for row in ROWS if row.deployment == name)


@pytest.mark.parametrize("row", WITH_FORM, ids=lambda row: row.deployment)
def test_what_a_form_starts_from_is_valid(row: DeploymentRow) -> None:
    assert errors(row, row.parameters["spec"]) == []


@pytest.mark.parametrize(
    "recipe",
    [
        "no_filter",
        "random:share=0.5",
        "kind: all\nfilters:\n  - {kind: words, at_least: 4}\n  - kind: not\n    filter: {kind: language, language: de}\n",
        '{"name": "mine", "filter": {"kind": "words", "at_least": 4}}',
    ],
)
def test_a_recipe_by_name_with_parameters_or_in_yaml(recipe: str) -> None:
    row = row_of("experiment-tiny")
    spec = {**row.parameters["spec"], "recipe": recipe}
    assert errors(row, spec) == []
    assert ExperimentSpec.model_validate(spec).subset().recipe


def test_a_nested_filter_in_yaml_is_the_filter_that_was_written() -> None:
    text = (
        "name: mine\nfilter:\n  kind: all\n  filters:\n    - {kind: words, at_least: 4}\n    - {kind: characters, at_least: 9}\n"
    )
    subset = ExperimentSpec(recipe=text).subset()
    assert subset.recipe == "mine"
    assert isinstance(subset.filter, AllOf)
    assert [part.model_dump() for part in subset.filter.filters] == [
        {"kind": "words", "at_least": 4},
        {"kind": "characters", "at_least": 9},
    ]


def test_the_same_filter_laid_out_otherwise_has_the_same_name() -> None:
    names = {
        ExperimentSpec(recipe=text).subset().recipe for text in ("kind: words\nat_least: 4", '{"at_least": 4, "kind": "words"}')
    }
    assert len(names) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("kind: wrds\n", "Did you mean 'words'"),
        ("filter: [", "not valid YAML"),
        ("- {kind: words}\n- {kind: not}", "not a mapping"),
        ("kind: all\nfilters:\n  - {kind: words, at_lest: 4}", "at_lest"),
        ("kind: not\n", "filter"),
    ],
)
def test_a_wrong_filter_in_yaml_gets_a_sentence(wrong: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ExperimentSpec(recipe=wrong)


def test_a_form_names_only_recipes_that_its_scale_can_answer() -> None:
    assert "clip_score_tiny" in recipes_of("tiny")
    assert not {"clip_score_l14", "laion2b", "image_based", "neg_clip_loss"} & set(recipes_of("tiny"))
    assert "clip_score_l14" in recipes_of("small")
    assert set(recipes_of("tiny")) | set(recipes_of("small")) == set(RECIPES)


@pytest.mark.parametrize("row", WITH_FORM, ids=lambda row: row.deployment)
def test_fields_keep_their_order_in_a_database_that_sorts_the_keys_of_objects(row: DeploymentRow) -> None:
    schema = form(row.flow, row.scale).model_dump(exclude_unset=True)
    stored = json.loads(json.dumps(schema, sort_keys=True))
    for name, definition in schema["definitions"].items():
        fields = stored["definitions"][name].get("properties", {})
        assert sorted(fields, key=lambda field: fields[field]["position"]) == list(definition.get("properties", {}))


def test_what_a_run_needs_is_not_called_optional() -> None:
    definitions = form(row_of("experiment-tiny").flow, "tiny").definitions
    assert {"scale", "recipe"} <= set(definitions["ExperimentSpec"]["required"])
    definitions = form(row_of("sweep-tiny").flow, "tiny").definitions
    assert {"scale", "recipes", "seeds"} <= set(definitions[SweepSpec.__name__]["required"])


def test_a_deployment_runs_its_own_scale_only() -> None:
    row = row_of("experiment-tiny")
    assert errors(row, {**row.parameters["spec"], "scale": "small"})
