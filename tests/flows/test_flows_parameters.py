"""What a form sends: a wrong value is refused at the door, and every scale's chain can be planned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from datacomp_core.artifacts import EvalSets, Pool
from datacomp_core.errors import SpecError
from datacomp_core.filters import Everything
from datacomp_core.parts import SCHEMA
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.byod import ByodPoolSpec
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.pool.tiny import TinyPoolSpec
from datacomp_core.recipes.load import load_recipe
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.fingerprint import fingerprint
from flows.chain import experiments, plan
from flows.parameters import ExperimentSpec, Preparation, SweepSpec


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "no_filtr"}, "Unknown recipe"),
        ({"recipe": "mine", "filter": {"kind": "wrds"}}, "wrds"),
        ({"recipe": "no_filter", "filter": {"kind": "words", "at_least": 4}}, "known recipe with a different filter"),
        ({"recipe": "basic_tiny", "filter": {"kind": "everything"}}, "known recipe with a different filter"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"scale": "huge"}, "Input should be"),
        ({"sed": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_value_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, SpecError), match=said):
        ExperimentSpec.model_validate(given)


def test_an_inline_filter_is_the_same_as_its_recipe() -> None:
    named = ExperimentSpec(recipe="clip_score_tiny")
    inline = ExperimentSpec.model_validate(
        {"recipe": "mine", "filter": {"kind": "top_fraction", "score": "tiny", "fraction": 0.3}}
    )
    assert inline.subset().filter == named.subset().filter


def test_a_filter_that_keeps_everything_is_a_filter_like_any_other() -> None:
    """It is the default of a subset, and given all the same; a run's parameters go through JSON."""
    own = {"recipe": "mine", "filter": {"kind": "everything"}}
    spec = ExperimentSpec.model_validate_json(ExperimentSpec.model_validate(own).model_dump_json())
    [swept] = SweepSpec.model_validate({"recipes": [], "filters": [{"name": "mine", "filter": own["filter"]}]}).experiments()
    written = ExperimentSpec.model_validate({"recipe": "name: mine\nfilter: {kind: everything}"})
    for one in (spec, swept, written):
        assert (one.subset().recipe, one.subset().filter) == ("mine", Everything())
        assert fingerprint(one.subset()) == fingerprint(SubsetSpec(recipe="no_filter"))


def test_a_recipe_keeps_its_filter_through_json() -> None:
    spec = ExperimentSpec.model_validate_json(ExperimentSpec(recipe="basic_tiny").model_dump_json())
    assert spec.subset().filter == load_recipe("basic_tiny").filter


def test_the_schema_of_the_form_has_descriptions() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.experiment import experiment

    schema = parameter_schema(experiment.fn).model_dump()
    spec = schema["definitions"]["ExperimentSpec"]["properties"]
    assert all("description" in field or "$ref" in field for field in spec.values())
    assert set(spec["scale"]["enum"]) == {"tiny", "debug", "small", "medium", "large", "xlarge"}


class GivenSpec(ExperimentSpec):
    """Stands for whatever made the pool."""


@step("pools", version=1, name=lambda spec: "given")
def given_pool(spec: GivenSpec, *, out: Folder) -> Pool:
    buffer = io.BytesIO()
    pl.DataFrame(schema=SCHEMA).write_parquet(buffer)
    out.write("metadata/00000000.parquet", buffer.getvalue())
    return Pool(num_samples=1, num_parts=1)


@step("evalsets", version=1, name=lambda spec: "given")
def given_sets(spec: GivenSpec, *, out: Folder) -> EvalSets:
    out.write("x", b"x")
    return EvalSets(suite="datacomp", num_tasks=38)


@pytest.mark.parametrize("scale", ["debug", "small", "medium", "large", "xlarge"])
def test_a_pool_of_the_store_needs_no_scorer(scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.settings import settings
    from tasks.run_step import store

    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    spec = GivenSpec.model_validate({"scale": scale, "recipe": "clip_score:score=l14,fraction=0.3", "pool": "x", "evalsets": "x"})
    pool, sets = given_pool(spec, store=store()), given_sets(spec, store=store())
    where = {"scale": scale, "pool": pool.address, "evalsets": sets.address}
    chosen = ExperimentSpec.model_validate({**where, "recipe": "clip_score:score=l14,fraction=0.3"})
    steps = plan(lambda call: experiments(call, [chosen]), store())
    assert [one.kind for one in steps] == ["shards", "subsets", "shards", "checkpoints", "reports", "entries"]
    with pytest.raises(SpecError, match="'clip_tiny_similarity_score', but .* no model is given"):
        plan(lambda call: experiments(call, [chosen.model_copy(update={"recipe": "clip_score_tiny"})]), store())
    assert isinstance(store(), Store)


KINDS = ["pools", "shards", "subsets", "shards", "evalsets", "checkpoints", "reports", "entries"]


@pytest.mark.parametrize("scale", ["small", "medium", "large", "xlarge"])
def test_a_scale_of_the_competition_begins_at_the_hub(scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.settings import settings
    from tasks.run_step import store

    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    chosen = ExperimentSpec.model_validate({"scale": scale, "recipe": "clip_score:score=l14,fraction=0.3"})
    steps = plan(lambda call: experiments(call, [chosen]), store())
    assert [one.kind for one in steps] == KINDS
    with pytest.raises(SpecError, match="features=fetch"):
        plan(lambda call: experiments(call, [chosen.model_copy(update={"recipe": "image_based"})]), store())
    made = {"column": "clip_l14_similarity_score", "prefix": "l14", "model": "ViT-L-14", "weights": "openai", "sha256": "0" * 64}
    anew = ExperimentSpec.model_validate({**chosen.model_dump(), "embed": {"encoders": [made], "released": "recompute"}})
    steps = plan(lambda call: experiments(call, [anew]), store())
    assert sorted(one.kind for one in steps) == sorted([*KINDS, "embeddings"])
    assert anew.preparation().embeds
    assert not chosen.preparation().embeds


def test_debug_has_no_pool_of_its_own() -> None:
    with pytest.raises(SpecError, match="no built-in pool"):
        ExperimentSpec.model_validate({"scale": "debug", "recipe": "no_filter"}).preparation()


@pytest.mark.parametrize("kind", [ByodPoolSpec, AdoptedPoolSpec, FolderPoolSpec, HubPoolSpec, TinyPoolSpec])
def test_prefect_takes_every_kind_of_pool_apart_and_together_again(kind: Any) -> None:
    """A field called `keys` made a model look like a mapping to Prefect, and `datacomp pool adopt` ended with a traceback."""
    from prefect.utilities.collections import visit_collection

    given = {"scale": "small"} if kind is HubPoolSpec else {}
    spec = Preparation(pool=kind.model_validate(given))
    assert visit_collection(spec, visit_fn=lambda value: value, return_data=True) == spec


@pytest.mark.parametrize("kind", [ExperimentSpec, SweepSpec, Preparation])
def test_a_network_that_is_none_is_refused_at_the_door(kind: Any) -> None:
    assert kind(open_networks="10.0.0.0/8, 127.0.0.0/8").open_networks == "10.0.0.0/8, 127.0.0.0/8"
    with pytest.raises(ValidationError, match=r"'10\.0\.0\.0/99' is not a network"):
        kind(open_networks="10.0.0.0/99")


def test_an_address_that_is_none_is_told_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.settings import settings
    from tasks.run_step import store, stored

    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    with pytest.raises(SpecError, match=r"nothing of kind pools at 'pools/x'.*: the store has no pools\."):
        stored(Pool, "pools/x")
    spec = GivenSpec.model_validate({"scale": "small", "recipe": "no_filter"})
    pool, sets = given_pool(spec, store=store()), given_sets(spec, store=store())
    with pytest.raises(SpecError, match=rf"nothing of kind pools at 'pools/x'.*nearest of 1: {pool.address}\."):
        stored(Pool, "pools/x")
    with pytest.raises(SpecError, match="is of kind evalsets, but pools is required"):
        stored(Pool, sets.address)
