"""Recipes from names and files, and what a wrong one is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from datacomp_core.errors import SpecError
from datacomp_core.filters import AllOf, Threshold, TopFraction, WholeFilter, Words
from datacomp_core.recipes.load import load_recipe
from datacomp_core.registry import FILTERS as KINDS
from datacomp_core.registry import RECIPES
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.store.fingerprint import fingerprint


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_comes_back_from_json(name: str) -> None:
    spec = SubsetSpec(recipe=name)
    assert spec.filter == load_recipe(name).filter
    assert SubsetSpec.model_validate_json(spec.model_dump_json()) == spec
    assert fingerprint(spec)


def test_parameters() -> None:
    assert load_recipe("clip_score:score=b32,fraction=0.2").filter == TopFraction(score="b32", fraction=0.2)
    assert load_recipe("clip_score:threshold=0.28, score=b32").filter == Threshold(score="b32", at_least=0.28)
    mine = "clip_mine_similarity_score"
    assert load_recipe(f"clip_score:score={mine},fraction=0.2").filter == TopFraction(score=mine, fraction=0.2)


def test_a_file_may_name_recipes_inside_filters(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: short\nfilter:\n  kind: all\n  filters:\n  - basic_tiny\n  - {kind: words, at_least: 5}\n")
    loaded = load_recipe(str(path))
    assert loaded.name == "mine"
    assert loaded.filter == AllOf(filters=(load_recipe("basic_tiny").filter, Words(at_least=5)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("basic_filtre", r"Unknown recipe 'basic_filtre'\. Did you mean 'basic_filter'\? Known: .*random_30"),
        ("clip_score:scor=b32", "Unknown parameter of recipe clip_score 'scor'. Did you mean 'score'"),
        ("clip_score:score=b64", "score is 'b64'"),
        ("clip_score:score", "not parameter=value"),
        ("clip_score:fraction=0.3,threshold=0.2", "not both"),
        ("clip_score:fraction=1.5", "fraction"),
        ("nowhere.yaml", "Cannot read the recipe file nowhere.yaml"),
    ],
)
def test_wrong_names(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        load_recipe(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("filter: {kind: not, filter: {kind: sample_to}}", "at filter.not.filter: 'sample_to' .* must be the outermost filter"),
        ("filter: {kind: wordz}", "Unknown filter kind in .* 'wordz'. Did you mean 'words'"),
        ("filter: {kind: all, filters: [{kind: words, at_lest: 2}]}", "Unknown field .*'at_lest'. Did you mean 'at_least'"),
        ("filter: {kind: words, at_least: many}", "words.at_least: .*valid integer"),
        ("filter: {at_least: 3}", "needs a `kind`"),
        ("filter: basic_filtre", "Unknown recipe 'basic_filtre'"),
        ("filtre: basic_filter", "needs a field `filter`"),
        ("filter: no_filter\ncolour: red", "Unknown field .*'colour'"),
        ("filter: [", "not valid YAML"),
        ("filter: {kind: all, filters: []}", "at least 1"),
    ],
)
def test_wrong_files(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        load_recipe(str(path))


def test_the_address_follows_the_filter_and_a_known_name_has_one_filter() -> None:
    own = SubsetSpec(recipe="mine", filter=Words(at_least=2))
    assert own.filter == Words(at_least=2)
    with pytest.raises(ValidationError, match="give your filter another name"):
        SubsetSpec(recipe="basic_filter", filter=Words(at_least=2))
    with pytest.raises(ValidationError, match="Unknown recipe 'mine'"):
        SubsetSpec(recipe="mine")


def test_the_form_of_a_subset_never_holds_itself_and_every_kind_is_a_locked_choice() -> None:
    schema = SubsetSpec.model_json_schema()
    definitions = schema["$defs"]
    for kind, model in KINDS.items():
        assert definitions[model.__name__]["properties"]["kind"]["enum"] == [kind]

    def reached(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, "a recursive schema hangs Prefect's form"
        text = json.dumps(definitions[name])
        for other in definitions:
            if f'"#/$defs/{other}"' in text:
                reached(other, (*above, name))

    for name in definitions:
        reached(name, ())


def test_what_tells_the_kinds_apart_in_a_form() -> None:
    """Prefect's form picks a tab by counting shared field names, so each filter with fields needs one of its own."""
    fields = {kind: set(model.model_fields) - {"kind"} for kind, model in KINDS.items() if kind not in ("all", "any")}
    for kind, mine in fields.items():
        same = [other for other, theirs in fields.items() if other != kind and mine and mine <= theirs]
        assert not same or kind in {"words", "characters", "not", "threshold"}, (kind, same)
    assert TypeAdapter(WholeFilter).validate_python({"kind": "words"}) == Words()
