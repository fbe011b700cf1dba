"""Encoders from the hub and from files: pinned to what they are when they are named, the same numbers as open_clip's own."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import test_embedding_encode as world
import torch
from hub_server import LocalHub, serving
from PIL import Image
from pydantic import ValidationError

from datacomp_core import clip, clip_hub
from datacomp_core.embedding.embed import embed
from datacomp_core.embedding.spec import EmbedSpec, Encoder
from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.settings import settings
from datacomp_core.store import Store
from datacomp_core.store.fingerprint import fingerprint

NAME = "hf-hub:some/scorer"
REPOSITORY = "models/some/scorer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What open_clip pushes to the hub: a configuration and weights."""
    clip.register()
    import open_clip
    from safetensors.torch import save_file

    home = tmp_path / "pushed"
    home.mkdir()
    torch.manual_seed(11)
    model = open_clip.create_model("datacomp-tiny", load_weights=False)
    config = {"model_cfg": open_clip.get_model_config("datacomp-tiny"), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (home / "open_clip_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, home / "open_clip_model.safetensors")
    return home


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        found.repositories[REPOSITORY] = {path.name: path.read_bytes() for path in folder.iterdir()}
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr("datacomp_core.hub.time.sleep", lambda seconds: None)
        yield found


def encoder(**given: Any) -> Encoder:
    return Encoder(column="clip_dfn_similarity_score", prefix="dfn", **given)


def test_a_name_is_pinned_to_its_commit_and_the_sha256_of_its_weights(hub: LocalHub, folder: Path) -> None:
    made = encoder(model=NAME)
    sha256 = hashlib.sha256((folder / "open_clip_model.safetensors").read_bytes()).hexdigest()
    assert (made.model, made.sha256) == (f"{NAME}@{hub.commit(REPOSITORY)}", sha256)
    assert hub.sent["open_clip_model.safetensors"] == 0, "the hub states the hash: nothing is fetched to plan"
    assert encoder(model=f"{NAME}@main") == made
    assert Encoder.model_validate_json(made.model_dump_json()) == made
    hub.repositories.clear()
    assert Encoder.model_validate_json(made.model_dump_json()) == made, "what is pinned asks nobody"


def test_the_numbers_are_those_of_the_model(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    import open_clip

    store = Store.open(str(tmp_path / "store"))
    pool, tars, _ = world.inputs(store)
    spec = EmbedSpec(encoders=(encoder(model=NAME),))
    made = embed(spec, pool, tars, (), store=store, device="cpu")
    parts = [pl.read_parquet(store.folder(made).at(f"scores/{part}.parquet")) for part in world.PARTS]
    scores = pl.concat(parts)["clip_dfn_similarity_score"]
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    tokenize = open_clip.get_tokenizer("datacomp-tiny")
    checked = 0
    for row in [row for row in range(len(scores)) if scores[row] is not None]:
        picture: Any = transform
        pixels = picture(Image.open(io.BytesIO(world.image(row))))[None]
        with torch.no_grad():
            left: Any = theirs.encode_image(pixels, normalize=True)[0]  # pyright: ignore
            right: Any = theirs.encode_text(tokenize([world.caption(row) or ""]), normalize=True)[0]  # pyright: ignore
        assert abs(scores[row] - float(left @ right)) < 1e-3, row  # features are kept in half precision
        checked += 1
    assert checked > 10
    assert made.model == f"{NAME}@{hub.commit(REPOSITORY)}"
    record = store.record(made.address)
    assert record is not None
    [stated] = record.spec["spec"]["encoders"]
    assert stated["sha256"] == spec.encoders[0].sha256
    hub.repositories.clear()
    again = Store.open(str(tmp_path / "another"))
    pool, tars, _ = world.inputs(again)
    assert embed(spec, pool, tars, (), store=again, device="cpu").fingerprint == made.fingerprint, "fetched once"


def test_weights_that_are_others_are_refused(hub: LocalHub, tmp_path: Path) -> None:
    made = encoder(model=NAME)
    store = Store.open(str(tmp_path / "store"))
    pool, tars, _ = world.inputs(store)
    forged = made.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match="should have 0000"):
        embed(EmbedSpec(encoders=(forged,)), pool, tars, (), store=store, device="cpu")
    with pytest.raises(ValidationError, match="should have 0000"):
        encoder(model=f"{NAME}@main", sha256="0" * 64)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf-hub:nothing", "is not a hub model"),
        ("hf-hub:a/b/c", "is not a hub model"),
        ("hf-hub:some/other", "hub has no"),
    ],
)
def test_a_wrong_name_is_one_sentence(hub: LocalHub, name: str, told: str) -> None:
    with pytest.raises((ValidationError, DataError, StoreError), match=told):
        encoder(model=name)


def test_a_repository_without_weights_says_so(hub: LocalHub) -> None:
    del hub.repositories[REPOSITORY]["open_clip_model.safetensors"]
    with pytest.raises(DataError, match="has no weights"):
        encoder(model=NAME)


def test_a_pin_is_remembered_for_recipes_that_name_a_model(hub: LocalHub) -> None:
    first = clip_hub.remembered(NAME)
    hub.repositories[REPOSITORY]["README.md"] = b"moved on"
    assert clip_hub.remembered(NAME) == first
    assert clip_hub.pin(NAME).model != first.model
    hub.repositories.clear()
    assert clip_hub.remembered(NAME) == first, "offline, too"
    assert (settings().home / "assets" / "hub" / "some" / "scorer" / "pin.json").is_file()


def test_a_file_is_known_by_its_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    shutil.copyfile(folder / "open_clip_model.safetensors", weights)
    made = encoder(model="datacomp-tiny", weights=str(weights))
    assert made.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    moved = tmp_path / "elsewhere.safetensors"
    shutil.copyfile(weights, moved)
    other = encoder(model="datacomp-tiny", weights=str(moved))
    assert fingerprint(EmbedSpec(encoders=(made,))) == fingerprint(EmbedSpec(encoders=(other,)))
    store = Store.open(str(tmp_path / "store"))
    pool, tars, _ = world.inputs(store)
    assert embed(EmbedSpec(encoders=(made,)), pool, tars, (), store=store, device="cpu").num_embedded > 10
    moved.write_bytes(b"another")
    with pytest.raises(DataError, match="has sha256 .*, but should have"):
        embed(EmbedSpec(encoders=(other,), batch_size=128), pool, tars, (), store=store, device="cpu")
    moved.unlink()
    with pytest.raises(DataError, match="not on this machine"):
        embed(EmbedSpec(encoders=(other,), batch_size=128), pool, tars, (), store=store, device="cpu")
    with pytest.raises(ValidationError, match="No weights exist at"):
        encoder(model="datacomp-tiny", weights=str(tmp_path / "none.pt"))


def test_the_command_line_names_all_four_kinds(hub: LocalHub, folder: Path) -> None:
    from deployments.cli.sweeps import encoders_of

    given = ["a=checkpoints/x", "b=hf-hub:some/scorer", f"c=datacomp-tiny@{folder / 'open_clip_model.safetensors'}"]
    given.append(f"d=ViT-B-32:openai@{'1' * 64},flip=averaged")
    fields = encoders_of(given)
    spec = EmbedSpec.model_validate(fields["embed"])
    assert [bool(one.model) for one in spec.encoders] == [False, True, True, True]
    assert [one.flip for one in spec.encoders] == ["none", "none", "none", "averaged"]
    assert ["flip" in one.model_dump() for one in spec.encoders] == [False, False, False, True]
    assert EmbedSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.encoders[1].is_of_hub
    assert spec.encoders[2].file.endswith("open_clip_model.safetensors")
    with pytest.raises(SpecError, match="unknown form"):
        encoders_of(["e=whatever"])


def test_a_configuration_of_ones_own_with_a_file_of_weights(folder: Path, tmp_path: Path) -> None:
    """In open_clip's bare form and in the hub's; known by content; the numbers are those of the same model by name."""
    from deployments.cli.sweeps import encoders_of

    found = json.loads((folder / "open_clip_config.json").read_text())
    weights = folder / "open_clip_model.safetensors"
    bare, hub_form, moved = tmp_path / "bare.json", tmp_path / "hub.json", tmp_path / "elsewhere.json"
    bare.write_text(json.dumps(found["model_cfg"]))
    for path in (hub_form, moved):
        path.write_text(json.dumps({"model_cfg": found["model_cfg"], "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.9] * 3}}))
    store = Store.open(str(tmp_path / "store"))
    pool, tars, _ = world.inputs(store)

    def spec(model: Path | str) -> EmbedSpec:
        return EmbedSpec.model_validate(encoders_of([f"mine={model}@{weights}"])["embed"])

    def scores(model: Path | str) -> pl.Series:
        made = embed(spec(model), pool, tars, (), store=store, device="cpu")
        parts = [pl.read_parquet(store.folder(made).at(f"scores/{part}.parquet")) for part in world.PARTS]
        return pl.concat(parts)["clip_mine_similarity_score"]

    assert scores(bare).equals(scores("datacomp-tiny"), null_equal=True)
    assert not scores(hub_form).equals(scores(bare), null_equal=True), "its mean and std are read"
    assert fingerprint(spec(hub_form)) == fingerprint(spec(moved)) != fingerprint(spec(bare))
    assert EmbedSpec.model_validate_json(spec(bare).model_dump_json()) == spec(bare)
    stated = spec(hub_form).model_copy(update={"batch_size": 128})
    hub_form.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"hub\.json has changed"):
        embed(stated, pool, tars, (), store=store, device="cpu")
    hub_form.unlink()
    with pytest.raises(DataError, match=r"hub\.json is not on this machine"):
        embed(stated, pool, tars, (), store=store, device="cpu")
    bare.write_text("{}")
    with pytest.raises(DataError, match="has no 'embed_dim'"):
        spec(bare)
    with pytest.raises(ValidationError, match="give its weights as a file"):
        encoder(model="mine.json", weights="openai", sha256="0" * 64)
    for wrong in (f"mine=ViT-B-33@{weights}", f"mine=ViT-B-33:openai@{'0' * 64}"):
        with pytest.raises((SpecError, ValidationError), match="Did you mean 'ViT-B-32'"):
            EmbedSpec.model_validate(encoders_of([wrong])["embed"])
