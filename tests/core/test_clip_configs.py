"""Model configurations of one's own: open_clip's bare form and its hub form, by file, with the weights of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datacomp_core import clip
from datacomp_core.clip_sources import source
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import torch

    path = tmp_path / "weights.pt"
    torch.save({"state_dict": clip.load("datacomp-tiny", None, "cpu").model.state_dict()}, path)
    return path


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_both_forms_load_with_the_weights_and_the_preparation_that_they_say(tmp_path: Path, weights: Path) -> None:
    import torch

    own = clip.config("datacomp-tiny")
    bare = source(str(written(tmp_path / "bare.json", own)), weights, Folder(tmp_path))
    preparation = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    hub = source(
        str(written(tmp_path / "hub.json", {"model_cfg": own, "preprocess_cfg": preparation})), weights, Folder(tmp_path)
    )
    wanted = clip.load("datacomp-tiny", weights, "cpu")
    for made in (bare, hub):
        loaded = made.load("cpu")
        assert torch.equal(loaded.encode_texts(["a cat"]), wanted.encode_texts(["a cat"]))
    assert bare.title == "bare"
    pixels = hub.load("cpu").pixels
    assert (pixels.mean, pixels.std, pixels.interpolation, pixels.resize_mode) == (MEAN, STD, "bilinear", "squash")
    assert bare.made_of() != hub.made_of(), "another preparation is another model to whoever keeps results"


def test_a_folder_with_a_configuration_alone_takes_a_checkpoint(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "mine").mkdir()
    written(tmp_path / "mine/open_clip_config.json", {"model_cfg": clip.config("datacomp-tiny"), "preprocess_cfg": {}})
    assert (
        source(str(tmp_path / "mine"), weights, Folder(tmp_path)).load("cpu").dim == clip.load("datacomp-tiny", None, "cpu").dim
    )


def test_what_is_no_configuration_is_one_sentence(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(DataError, match=r"other\.json has no 'embed_dim'"):
        source(
            str(written(tmp_path / "other.json", {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}})), weights, Folder(tmp_path)
        )
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        source(str(tmp_path / "none.json"), weights, Folder(tmp_path))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"preprocess_cfg": {"meen": MEAN}}, "'meen'. Did you mean 'mean'?"),
        ({"preprocess_cfg": {"interpolation": "lanczos"}}, "'lanczos'. Known: bicubic, bilinear"),
        ({"preproces_cfg": {}}, "'preproces_cfg'. Did you mean 'preprocess_cfg'?"),
        (
            {"model_cfg": {**(clip.config("datacomp-tiny") or {}), "visual_cfg": {}}},
            "'visual_cfg', which open_clip does not know",
        ),
    ],
)
def test_what_open_clip_would_ignore_is_refused(changed: Any, says: str, tmp_path: Path, weights: Path) -> None:
    path = written(tmp_path / "odd.json", {"model_cfg": clip.config("datacomp-tiny"), **changed})
    with pytest.raises((DataError, SpecError)) as told:
        source(str(path), weights, Folder(tmp_path)).load("cpu")
    assert says in str(told.value)


def test_weights_of_another_shape_are_told_by_the_first(tmp_path: Path, weights: Path) -> None:
    own = clip.config("datacomp-tiny") or {}
    path = written(tmp_path / "wide.json", {**own, "embed_dim": 2 * own["embed_dim"]})
    told = r"of its weights have another shape, such as \S+: \[.*128.*\] in the file, \[.*256.*\] in the model"
    with pytest.raises(DataError, match=told):
        source(str(path), weights, Folder(tmp_path)).load("cpu")


def test_quick_gelu_and_a_tokenizer_beside_the_file_are_heeded(tmp_path: Path, weights: Path) -> None:
    import torch

    own = clip.config("datacomp-tiny") or {}
    plain, quick = (
        source(str(written(tmp_path / f"{name}.json", {**own, "quick_gelu": name == "quick"})), weights, Folder(tmp_path))
        for name in ("plain", "quick")
    )
    texts = ["a cat", "a dog"]
    assert not torch.equal(plain.load("cpu").encode_texts(texts), quick.load("cpu").encode_texts(texts))
    tokenizer = tmp_path / "words"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\ndog\n")
    written(tokenizer / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    other = {**own, "text_cfg": {**own["text_cfg"], "hf_tokenizer_name": "words"}}
    worded = source(str(written(tmp_path / "worded.json", other)), weights, Folder(tmp_path))
    assert worded.load("cpu").tokenize(["a cat"])[0, :4].tolist() == [2, 5, 6, 3]
    before = worded.made_of()
    (tokenizer / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\na\ndog\n")
    assert worded.made_of() != before, "kept results follow the tokenizer's words"


def test_a_tokenizer_that_is_not_here_is_one_sentence_that_names_the_users_file(tmp_path: Path, weights: Path) -> None:
    own = clip.config("datacomp-tiny") or {}
    other = {**own, "text_cfg": {**own["text_cfg"], "hf_tokenizer_name": "nobody/none"}}
    path = written(tmp_path / "mine.json", other)
    with pytest.raises(DataError, match=rf"^The model {path} reads tokenizer_config\.json of nobody/none, which is not on this"):
        source(str(path), weights, Folder(tmp_path)).load("cpu")
    wrong = written(tmp_path / "wrong.json", {**own, "vision_cfg": {**own["vision_cfg"], "widht": 3}})
    with pytest.raises(DataError, match=rf"^The model {wrong} cannot be built: .*'widht'"):
        source(str(wrong), weights, Folder(tmp_path)).load("cpu")


def test_an_unknown_model_gets_the_three_nearest_and_not_all() -> None:
    with pytest.raises(
        SpecError, match=r"Unknown model 'ViT-B-23'\. Did you mean 'ViT-B-\d\d'\? Nearest of \d+: [^,]*, [^,]*, [^,]*\.$"
    ):
        clip.check_model("ViT-B-23")
