"""Recipes that compute scores, in the chain: each score is a step of its own, shared by all recipes that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from datacomp_core.filters import AllOf, SoftCap, TopFraction
from datacomp_core.store import Store
from flows.chain import STAGES, plan
from flows.parameters import ExperimentSpec


def _kinds(store: Store, **given: object) -> list[str]:
    spec = ExperimentSpec.model_validate(given)
    return [step.kind for step in plan(lambda call: STAGES["filter"](call, spec), store)]


def test_only_what_a_recipe_reads_is_planned(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    assert "scores" not in _kinds(store, recipe="no_filter")
    assert _kinds(store, recipe="metaclip").count("scores") == 1
    assert "embeddings" not in _kinds(store, recipe="metaclip")
    by_features = _kinds(store, recipe="norm_sim_d:features=tiny")
    assert by_features.count("scores") == 1
    assert "embeddings" in by_features


def test_a_filter_of_ones_own_goes_through_the_form(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    own = SoftCap(filter=AllOf(filters=(TopFraction(score="tiny"),)), weights={"tiny": 1.0, "metaclip": 0.2}, num_samples=100)
    spec = ExperimentSpec.model_validate({"recipe": "mine", "filter": own.model_dump(mode="json")})
    assert spec.curation().subset.filter == own
    assert hash(spec.curation().subset.filter) == hash(own)
    assert _kinds(store, recipe="mine", filter=own.model_dump()).count("scores") == 1
    with pytest.raises(ValueError, match="known recipe with a different filter"):
        ExperimentSpec(recipe="basic_filter", filter=own).curation()


def test_a_filter_ends_with_its_subset(tmp_path: Path) -> None:
    """No sample is copied for it."""
    assert _kinds(Store.open(str(tmp_path)), recipe="no_filter")[-1] == "subsets"
