"""Checkpoints in every form that their own libraries load, through `datacomp embed` and `datacomp evaluate`.

What is right is computed by open_clip or transformers themselves from the weights before they were wrapped. The forms that may
not be loaded are refused in one sentence with the way out.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datacomp_core import clip, clip_sources
from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli.main import main

MODEL = "datacomp-tiny"
TEXTS = ["a photo of a dog", "Two CATS & a café"]
Weights = dict[str, Any]


def picture(size: tuple[int, int] = (90, 71)) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.fixture(scope="module")
def weights() -> Weights:
    clip.register()
    import open_clip

    torch.manual_seed(11)
    return {key: value.contiguous() for key, value in open_clip.create_model(MODEL, load_weights=False).state_dict().items()}


def by_open_clip(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the picture and the texts, by open_clip alone."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(MODEL, load_weights=False)
    model.load_state_dict(weights)
    prepare: Any = transform
    with torch.no_grad():
        image = model.eval().encode_image(prepare(picture())[None], normalize=True)[0]  # pyright: ignore
        return image, model.encode_text(open_clip.get_tokenizer(MODEL)(TEXTS), normalize=True)  # pyright: ignore


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def inside(weights: Weights) -> Weights:
    """As FSDP with wrapped blocks names them, under torch.compile."""
    return prefixed({key.replace("resblocks.", "resblocks._fsdp_wrapped_module."): v for key, v in weights.items()}, "_orig_mod.")


def saved(value: Any, **options: Any) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        torch.save(value, home / "weights.pt", **options)
        return home / "weights.pt"

    return write


def safetensors(weights: Weights, name: str = "weights.safetensors") -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        from safetensors.torch import save_file

        save_file(weights, home / name)
        return home / name

    return write


def sharded(weights: Weights) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        from safetensors.torch import save_file

        names = sorted(weights)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for name, keys in parts.items():
            save_file({key: weights[key] for key in keys}, home / name)
        index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
        (home / "model.safetensors.index.json").write_text(json.dumps(index))
        return home / "model.safetensors.index.json"

    return write


def in_folder(write: Callable[[Path], Path], name: str, **changed: Any) -> Callable[[Path], Path]:
    """A folder of open_clip whose weights are called `name`."""

    def made(home: Path) -> Path:
        import open_clip

        config = open_clip.get_model_config(MODEL) | changed  # pyright: ignore
        (home / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        path = write(home)
        if not path.name.endswith(".index.json"):
            path.rename(home / name)
        return home

    return made


def forms(weights: Weights) -> dict[str, Callable[[Path], Path]]:
    """How the same weights may lie on a disk."""
    training = {"epoch": 5, "name": "mine", "state_dict": prefixed(weights, "module."), "optimizer": {"state": {}, "lr": 0.1}}
    old = dict(weights.items()) | {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    custom: dict[str, Any] = {"custom_text": True}
    return {
        "a plain state dict": saved(weights),
        "an ordered one": saved(OrderedDict(weights)),
        "state_dict": saved({"state_dict": weights}),
        "model": saved({"model": weights, "step": 3}),
        "model_state_dict": saved({"model_state_dict": weights, "loss": 0.1}),
        "nested twice": saved({"model": {"state_dict": weights}}),
        "nested thrice": saved({"model": {"state_dict": {"module": weights}}}),
        "AveragedModel": saved(prefixed(weights, "module.") | {"n_averaged": torch.tensor(3)}),
        "a checkpoint of open_clip_train": saved(training),
        "module.": saved(prefixed(weights, "module.")),
        "_orig_mod.": saved(prefixed(weights, "_orig_mod.")),
        "_orig_mod.module.": saved(prefixed(weights, "_orig_mod.module.")),
        "module._orig_mod.": saved(prefixed(weights, "module._orig_mod.")),
        "_fsdp_wrapped_module.": saved(prefixed(weights, "_fsdp_wrapped_module.")),
        "FSDP inside torch.compile": saved(inside(weights)),
        "model.": saved(prefixed(weights, "model.")),
        "Lightning": saved({"state_dict": prefixed(weights, "model."), "hyper_parameters": {"lr": 0.1}}),
        "safetensors": safetensors(weights),
        "safetensors with module.": safetensors(prefixed(weights, "module.")),
        "safetensors called .pt": safetensors(weights, "weights.pt"),
        "sharded safetensors": sharded(weights),
        "torch's old format": saved(weights, _use_new_zipfile_serialization=False),
        "OpenAI's numbers among them": saved(old),
        "logit_scale with one dimension": saved(weights | {"logit_scale": weights["logit_scale"].reshape(1)}),
        "parameters": saved({key: torch.nn.Parameter(value, requires_grad=False) for key, value in weights.items()}),
        "folder of open_clip": in_folder(safetensors(weights), "open_clip_model.safetensors"),
        "folder of open_clip, bin": in_folder(saved(weights), "open_clip_pytorch_model.bin"),
        "folder of open_clip, any name": in_folder(safetensors(weights), "final.safetensors"),
        "folder of open_clip, sharded": in_folder(sharded(weights), ""),
        "old keys in a model with custom text": in_folder(safetensors(weights), "open_clip_model.safetensors", **custom),
        "old keys and no logit_bias": in_folder(
            safetensors(weights), "open_clip_model.safetensors", **custom, init_logit_bias=-10.0
        ),
    }


NAMES = list(forms({"logit_scale": torch.ones([])}))


def loaded(place: Path) -> clip.Clip:
    model, file = (str(place), None) if place.is_dir() else (MODEL, place)
    return clip_sources.source(model, file, Folder(place.parent / "kept")).load("cpu")


def features(model: clip.Clip) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_images(model.pixels(picture())[None])[0], model.encode_texts(TEXTS)


@pytest.fixture(scope="module")
def right(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    return by_open_clip(weights)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if n % 6 == 5 else pytest.mark.slow) for n, name in enumerate(NAMES)]
)
def test_each_form_gives_the_features_of_its_weights(name: str, weights: Weights, right: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    image, texts = features(loaded(forms(weights)[name](tmp_path / "model")))
    torch.testing.assert_close(image, right[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(texts, right[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_not_rounded_again(kind: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    torch.save({key: value.to(kind) for key, value in weights.items()}, tmp_path / "half.pt")
    model = loaded(tmp_path / "half.pt").model.state_dict()
    assert all(torch.equal(model[key], value.to(kind).float()) for key, value in weights.items())


def test_another_grid_of_positions_is_resized_as_open_clip_does_it(tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    clip.register()
    tower = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 48}
    config = open_clip.get_model_config(MODEL) | {"vision_cfg": tower}  # pyright: ignore
    (tmp_path / "model").mkdir()
    (tmp_path / "model/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    theirs = open_clip.create_model(f"local-dir:{tmp_path}/model", load_weights=False)
    grid = torch.randn(25 + 1, 32, generator=torch.Generator().manual_seed(2))
    weights = {key: value.contiguous() for key, value in theirs.state_dict().items()} | {"visual.positional_embedding": grid}
    save_file(weights, tmp_path / "model/open_clip_model.safetensors")
    open_clip.load_checkpoint(theirs, str(tmp_path / "model/open_clip_model.safetensors"))  # pyright: ignore
    mine = loaded(tmp_path / "model").model.state_dict()
    assert mine["visual.positional_embedding"].shape == (9 + 1, 32)
    assert all(torch.equal(mine[key], value) for key, value in theirs.state_dict().items())


def test_position_ids_of_an_older_transformers_are_left_out(tmp_path: Path) -> None:
    """As in xlm-roberta's checkpoints; the text tower's configuration and tokenizer lie beside the weights."""
    import open_clip
    import transformers
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    home = tmp_path / "model"
    text = home / "text"
    text.mkdir(parents=True)
    config = transformers.XLMRobertaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    config.save_pretrained(text)
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "dog": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(home)
    model_cfg = open_clip.get_model_config(MODEL) | {  # pyright: ignore
        "custom_text": True,
        "text_cfg": {"hf_model_name": str(text), "hf_tokenizer_name": str(home), "hf_proj_type": "linear", "context_length": 12},
    }
    (home / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    save_file({"x": torch.zeros(1)}, home / "open_clip_model.safetensors")
    torch.manual_seed(0)
    theirs = open_clip.create_model(f"local-dir:{home}", load_weights=False, pretrained_text=False)
    weights = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    save_file(
        weights | {"text.transformer.embeddings.position_ids": torch.arange(40)[None]}, home / "open_clip_model.safetensors"
    )
    mine = loaded(home)
    with torch.no_grad():
        tokens = mine.tokenize(["a dog"])
        want = theirs.eval().encode_text(tokens, normalize=True)  # pyright: ignore
    torch.testing.assert_close(mine.encode_texts(["a dog"]), want, atol=1e-6, rtol=0)


def test_a_text_tower_that_lies_on_the_hub_is_one_sentence_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    config = open_clip.get_model_config(MODEL) | {"text_cfg": {"hf_model_name": "nobody/knows-this"}}  # pyright: ignore
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"reads config.json of nobody/knows-this, which is not on this machine.*hf download"):
        loaded(tmp_path)


# What may not be loaded ----------------------------------------------------------------------------------------------


def scripted(home: Path) -> Path:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), home / "weights.pt")
    return home / "weights.pt"


def refusals(weights: Weights) -> dict[str, tuple[Callable[[Path], Path], str]]:
    bad = weights | {"ln_final.weight": torch.full_like(weights["ln_final.weight"], float("nan"))}
    infinite = weights | {"logit_scale": torch.tensor(float("inf"))}
    return {
        "TorchScript": (scripted, r"is a TorchScript archive.*convert-checkpoint.*safetensors"),
        "argparse": (
            saved({"state_dict": weights, "args": argparse.Namespace(lr=1)}),
            r"objects of argparse.*convert-checkpoint",
        ),
        "numpy": (saved({"state_dict": weights, "best": np.float64(0.5)}), r"objects of numpy.*convert-checkpoint"),
        "a strange prefix": (saved(prefixed(weights, "student.clip.")), r"have the prefix 'student.clip.'"),
        "a prefix of some": (
            saved(prefixed(weights, "module.") | {"head.bias": torch.zeros(1)}),
            r"begin with 'module.' and others, such as head.bias, do not",
        ),
        "NaN": (saved(bad), r"the weight ln_final.weight has NaN or infinity in \d+ of \d+ values"),
        "infinity": (saved(infinite), r"the weight logit_scale has NaN or infinity in 1 of 1"),
        "no tensors": (saved({"epoch": 3}), r"has no weights at its top .*it has 'epoch'"),
        "whole numbers": (
            saved({key: value.to(torch.int32) for key, value in weights.items()}),
            r"is stored as torch.int32 and not as floating point numbers.*float32, float16 or bfloat16",
        ),
        "a list": (saved([1, 2]), r"has no weights: it contains a list"),
        "another model": (
            saved({key: value[..., :1] for key, value in weights.items() if value.ndim}),
            r"does not fit the model",
        ),
        "a cut file": (cut(weights), r"cannot be read as plain weights"),
        "an empty file": (empty("weights.pt"), r"weights.pt is empty \(0 bytes\): copy or download it again"),
        "an empty safetensors": (empty("weights.safetensors"), r"weights.safetensors is empty \(0 bytes\)"),
    }


def empty(name: str) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        (home / name).touch()
        return home / name

    return write


def cut(weights: Weights) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        (home / "weights.pt").write_bytes(buffer.getvalue()[:5000])
        return home / "weights.pt"

    return write


@pytest.mark.parametrize("name", list(refusals({"ln_final.weight": torch.ones(1), "logit_scale": torch.ones([])})))
def test_what_may_not_be_loaded_is_one_sentence(name: str, weights: Weights, tmp_path: Path) -> None:
    write, told = refusals(weights)[name]
    with pytest.raises(DatacompError, match=told) as refused:
        loaded(write(tmp_path))
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mean": [0.1, 0.2]}, "the mean 0.1, 0.2, but needs three finite numbers"),
        ({"mean": "abc"}, r"the mean .*, but needs three finite numbers"),
        ({"mean": [float("nan")] * 3}, "the mean nan, nan, nan, but needs three finite numbers"),
        ({"std": [0.2, 0, 0.2]}, "the std 0.2, 0, 0.2, but needs three finite numbers above 0"),
        ({"resize_mode": "zoom"}, r"fails the check `assert .*resize_mode"),
        ({"interpolation": "best"}, r"fails the check `assert .*interpolation"),
    ],
)
def test_preprocessing_that_cannot_be_is_one_sentence(changed: Any, told: str, weights: Weights, tmp_path: Path) -> None:
    in_folder(safetensors(weights), "open_clip_model.safetensors")(tmp_path)
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"preprocess_cfg": changed}))
    with pytest.raises(DatacompError, match=told) as refused:
        loaded(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatacompError, match=f"There is no model at {tmp_path}/nowhere"):
        clip_sources.source(f"{tmp_path}/nowhere", None, Folder(tmp_path / "kept"))


@pytest.mark.parametrize("kind", ["TorchScript", pytest.param("objects", marks=pytest.mark.slow)])
def test_what_is_refused_is_converted_apart_and_runs_nothing(
    kind: str, weights: Weights, right: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "given.pt"
    if kind == "TorchScript":

        class Holder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                for key, value in weights.items():
                    self.register_buffer(key.replace(".", "__"), value)

            def forward(self) -> int:
                return 1

        torch.jit.save(torch.jit.script(Holder()), source)
    else:
        torch.save({"state_dict": weights, "args": argparse.Namespace(lr=1), "best": np.float64(1), "evil": Evil()}, source)
    status, problem = command(monkeypatch, capfd, "convert-checkpoint", source, tmp_path / "made.safetensors")
    assert status == 0, problem
    assert not Path("/tmp/datacomp-evil").exists()
    from safetensors.torch import load_file

    made = load_file(tmp_path / "made.safetensors")
    assert {key.replace("__", "."): tuple(value.shape) for key, value in made.items()} == {
        key: tuple(value.shape) for key, value in weights.items()
    }
    if kind == "objects":
        image, _ = features(loaded(tmp_path / "made.safetensors"))
        torch.testing.assert_close(image, right[0], atol=1e-6, rtol=0)


class Evil:
    """Leaves a file behind if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return Path("/tmp/datacomp-evil").write_text, ("was run",)


# transformers --------------------------------------------------------------------------------------------------------


def transformers_folder(home: Path, settings: dict[str, Any], *, five: bool) -> Path:
    """As transformers 4 or 5 writes a CLIP; the weights in two shards with 5."""
    import open_clip
    import transformers

    home.mkdir(parents=True)
    own: Any = open_clip.SimpleTokenizer()
    start = 49406
    vocabulary = {token: place for token, place in own.encoder.items() if place < start}
    vocabulary |= {"<|startoftext|>": start, "<|endoftext|>": start + 1}
    merges = [" ".join(pair) for pair in sorted(own.bpe_ranks, key=own.bpe_ranks.get)]
    (home / "vocab.json").write_text(json.dumps(vocabulary))
    (home / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(home)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**tower, "image_size": 48, "patch_size": 16},
        projection_dim=24,
    )
    torch.manual_seed(1)
    model = transformers.CLIPModel(config)
    images = transformers.CLIPImageProcessor(**settings)
    if five:
        model.save_pretrained(home, max_shard_size="1MB")
        transformers.CLIPProcessor(images, tokenizer).save_pretrained(home)
        assert (home / "processor_config.json").exists()
        assert (home / "model.safetensors.index.json").exists()
        assert not (home / "preprocessor_config.json").exists()
    else:
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
        images.save_pretrained(home)
    return home


PROCESSORS: dict[str, dict[str, Any]] = {
    "shortest edge": {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    "height and width": {"size": {"height": 48, "width": 48}, "do_center_crop": False},
    "larger, then cropped": {"size": {"height": 57, "width": 61}, "crop_size": {"height": 48, "width": 48}},
    "no resizing": {"do_resize": False, "crop_size": {"height": 48, "width": 48}},
    "no normalisation": {"size": {"shortest_edge": 48}, "crop_size": 48, "do_normalize": False},
    "another factor": {"size": {"shortest_edge": 48}, "crop_size": 48, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]},
    "bilinear, other means": {"size": {"shortest_edge": 48}, "crop_size": 48, "resample": 2, "image_std": [0.5, 0.4, 0.3]},
}
SIZES = [(90, 71), (48, 48), (49, 48), (300, 201), (33, 41), (101, 333), (60, 95)]


@pytest.mark.parametrize("five", [True, False])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if n else ()) for n, name in enumerate(PROCESSORS)])
def test_a_folder_of_transformers_is_its_own_processor_and_model(name: str, five: bool, tmp_path: Path) -> None:
    import transformers

    home = transformers_folder(tmp_path / "clip", PROCESSORS[name], five=five)
    mine = loaded(home)
    theirs = transformers.CLIPModel.from_pretrained(home).eval()
    default: Any = transformers.AutoProcessor.from_pretrained(home)
    pillow: Any = transformers.models.clip.CLIPImageProcessorPil.from_pretrained(home)
    for size in SIZES:
        image = picture(size)
        want = pillow(image, return_tensors="pt")["pixel_values"][0]
        if name != "no resizing" or min(size) >= 48:
            torch.testing.assert_close(mine.preprocess(image), want, atol=2e-6, rtol=0)
        resized = default(images=image, return_tensors="pt")["pixel_values"]
        step = float(((resized[0] - mine.preprocess(image)) * torch.tensor(mine.pixels.std).view(3, 1, 1)).abs().max() * 255)
        assert step <= 3.01, "torch's and Pillow's resizing round differently: three grey levels at most, in few pixels"
        with torch.no_grad():
            features = torch.nn.functional.normalize(theirs.get_image_features(pixel_values=want[None]).pooler_output, dim=-1)
        if name != "no resizing" or min(size) >= 48:
            torch.testing.assert_close(mine.encode_images(mine.pixels(image)[None]), features, atol=2e-5, rtol=0)
    with torch.no_grad():
        tokens = default(text=TEXTS, padding=True, return_tensors="pt")
        texts = torch.nn.functional.normalize(theirs.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(mine.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "ViTImageProcessorFast", "SiglipImageProcessor", "CLIPFeatureExtractor"])
@pytest.mark.parametrize("size", [{"height": 48, "width": 48}, 48, [48, 48]])
def test_what_a_processor_does_not_say_is_what_its_kind_does(kind: str, size: Any, tmp_path: Path) -> None:
    """A vision transformer's processor crops nothing, resizes bilinearly and has other means than CLIP's."""
    import transformers

    home = transformers_folder(tmp_path / "clip", PROCESSORS["shortest edge"], five=False)
    crop = {"do_center_crop": True, "crop_size": [48, 48]} if kind != "ViTImageProcessor" else {}
    said = "feature_extractor_type" if kind.endswith("Extractor") else "image_processor_type"
    (home / "preprocessor_config.json").write_text(json.dumps({said: kind, "size": size, **crop}))
    mine = loaded(home)
    theirs: Any = transformers.AutoImageProcessor.from_pretrained(home, backend="pil")
    for odd in SIZES:
        want = theirs(picture(odd), return_tensors="pt")["pixel_values"][0]
        if size == 48 and kind == "ViTImageProcessor":
            assert want.shape[1:] == (48, 48), "one number is a square for this kind"
        torch.testing.assert_close(mine.preprocess(picture(odd)), want, atol=2e-6, rtol=0)


def test_an_image_processor_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    home = transformers_folder(tmp_path / "clip", PROCESSORS["shortest edge"], five=False)
    (home / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ConvNextImageProcessor", "size": 48}))
    with pytest.raises(SpecError, match="ConvNextImageProcessor, which is not supported: use one of .*CLIPImageProcessor"):
        loaded(home)


def test_a_weight_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    home = transformers_folder(tmp_path / "clip", PROCESSORS["shortest edge"], five=False)
    weights = load_file(home / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "visual_projection.weight"}, home / "model.safetensors")
    with pytest.raises(DataError, match=r"1 weights are missing or have a different shape, such as visual_projection.weight"):
        loaded(home)


# The commands --------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["datacomp", *map(str, arguments)])
    monkeypatch.setenv("DATACOMP_WORKERS", "1")
    settings.cache_clear()
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code)), capfd.readouterr().err.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*NAMES, "transformers 5", *refusals({"ln_final.weight": torch.ones(1), "logit_scale": torch.ones([])})]
)
def test_both_commands_take_each_form_or_refuse_it(
    name: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from test_cli_stale import made_world  # the pool and the test set of that test

    (tmp_path / "world").mkdir()
    world = made_world(tmp_path / "world")
    (tmp_path / "model").mkdir()
    told = ""
    if name == "transformers 5":
        place = transformers_folder(tmp_path / "model/clip", PROCESSORS["shortest edge"], five=True)
    elif name in NAMES:
        place = forms(weights)[name](tmp_path / "model")
    else:
        write, told = refusals(weights)[name]
        place = write(tmp_path / "model")
    model = ("--model", place) if place.is_dir() else ("--model", MODEL, "--checkpoint", place)
    sets = ("--data", world / "sets", "--add-tasks", world / "tasks.yaml", "--out", tmp_path / "scores")
    encoder = f"mine={place}" if place.is_dir() else f"mine={MODEL}@{place}"
    pool = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", tmp_path / "features")
    for words in (("evaluate", *model, *sets), ("embed", *pool, "--encoder", encoder)):
        status, problem = command(monkeypatch, capfd, *words)
        assert status == (1 if told else 0), problem
        assert "Traceback" not in problem
