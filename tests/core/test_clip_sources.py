"""Models from folders, from the hub and by the name of a release, against open_clip's and transformers' own encoders."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import LocalHub, serving
from PIL import Image

from datacomp_core import clip, clip_sources
from datacomp_core.errors import DataError, SpecError
from datacomp_core.evaluation import metrics
from datacomp_core.scores import score_cache
from datacomp_core.store import Folder, record

ROOT = Path(__file__).parents[2]
MODEL = "datacomp-tiny"
START, END = 49406, "<|endoftext|>"
TEXTS = ["a photo of a dog", "Two CATS & a café", "x" * 400]


def picture(seed: int = 0, size: tuple[int, int] = (90, 70)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).resize(size)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    clip.register()
    import open_clip

    torch.manual_seed(5)
    return open_clip.create_model(MODEL, load_weights=False).state_dict()


def open_clip_folder(home: Path, weights: dict[str, Any]) -> Path:
    """As open_clip writes it to push a model to the hub; the preparation differs from the architecture's own."""
    import open_clip
    from safetensors.torch import save_file

    home.mkdir(parents=True)
    prepared = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": prepared}
    (home / "open_clip_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in weights.items()}, home / "open_clip_model.safetensors")
    return home


def transformers_folder(home: Path) -> Path:
    import open_clip
    import transformers

    home.mkdir(parents=True)
    own: Any = open_clip.SimpleTokenizer()
    vocabulary = {token: place for token, place in own.encoder.items() if place < START} | {
        "<|startoftext|>": START,
        END: START + 1,
    }
    (home / "vocab.json").write_text(json.dumps(vocabulary))
    ranked = sorted(own.bpe_ranks, key=own.bpe_ranks.get)
    (home / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in ranked) + "\n")
    special = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (home / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**tower, "image_size": 48, "patch_size": 16},
        projection_dim=24,
    )
    torch.manual_seed(1)
    transformers.CLIPModel(config).save_pretrained(home)
    processor = {
        "crop_size": {"height": 48, "width": 48},
        "size": {"shortest_edge": 48},
        "resample": 3,
        "image_mean": [0.48, 0.45, 0.4],
        "image_std": [0.26, 0.26, 0.27],
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_processor_type": "CLIPImageProcessor",
    }
    (home / "preprocessor_config.json").write_text(json.dumps(processor))
    return home


def encoded(loaded: clip.Clip, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    return loaded.encode_images(loaded.pixels(image)[None])[0], loaded.encode_texts(TEXTS)


def test_a_folder_of_open_clip(tmp_path: Path, weights: dict[str, Any]) -> None:
    import open_clip

    folder = open_clip_folder(tmp_path / "mine", weights)
    found = clip_sources.source(str(folder), None, Folder(tmp_path / "kept"))
    loaded = found.load("cpu")
    assert (found.title, loaded.pixels.resize_mode, loaded.pixels.interpolation) == ("mine", "squash", "bilinear")
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    image, texts = encoded(loaded, picture())
    with torch.no_grad():
        want: Any = theirs.encode_image(transform(picture())[None], normalize=True)[0]  # pyright: ignore
        torch.testing.assert_close(image, want, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            texts, theirs.encode_text(open_clip.get_tokenizer(MODEL)(TEXTS), normalize=True), atol=1e-6, rtol=0
        )


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    import transformers

    folder = transformers_folder(tmp_path / "clip")
    found = clip_sources.source(str(folder), None, Folder(tmp_path / "kept"))
    loaded = found.load("cpu")
    image, texts = encoded(loaded, picture(size=(96, 60)))
    theirs: Any = transformers.CLIPModel.from_pretrained(folder).eval()
    processor: Any = transformers.CLIPImageProcessor.from_pretrained(folder)
    pixels = processor(picture(size=(96, 60)), return_tensors="pt")["pixel_values"]
    import open_clip

    ids = open_clip.SimpleTokenizer()(TEXTS)
    mine = loaded.tokenize(TEXTS)
    for row, theirs_row in zip(mine.tolist(), ids.tolist(), strict=True):
        assert [token for token in row if token != 49407] == [token for token in theirs_row if token not in (0, 49407)]
    with torch.no_grad():
        both = theirs(input_ids=mine, pixel_values=pixels)
    torch.testing.assert_close(
        image, both.image_embeds[0], atol=2e-3, rtol=0
    )  # its processor resizes with torch, not with Pillow
    torch.testing.assert_close(texts, both.text_embeds, atol=1e-6, rtol=0)
    assert len(found.fingerprint()) == 64


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_from_the_hub_without_running_what_lies_there(server: LocalHub, tmp_path: Path, weights: dict[str, Any]) -> None:
    folder = open_clip_folder(tmp_path / "mine", weights)
    server.repositories["models/some/clip"] = {
        **files(folder),
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"x" * 500,
    }
    found = clip_sources.source("hf-hub:some/clip", None, Folder(tmp_path / "kept"))
    there = {path.name for path in (tmp_path / "kept" / "some" / "clip").iterdir()}
    assert there == {"open_clip_config.json", "open_clip_model.safetensors", "hub.json"}
    image, _ = encoded(found.load("cpu"), picture())
    torch.testing.assert_close(image, encoded(clip_sources.source(str(folder), None, Folder(tmp_path)).load("cpu"), picture())[0])


def test_a_release_by_name_has_the_preparation_of_open_clips_list(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Any]
) -> None:
    import open_clip
    from open_clip import pretrained

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    server.repositories["models/some/release"] = {"open_clip_pytorch_model.bin": buffer.getvalue()}
    row = {"hf_hub": "some/release/", "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}
    monkeypatch.setitem(pretrained._PRETRAINED, MODEL, {"first": row, "elsewhere": {"url": "https://example.org/x.pt"}})  # pyright: ignore
    found = clip_sources.source(f"{MODEL}/first", None, Folder(tmp_path))
    loaded = found.load("cpu")
    assert (found.title, loaded.pixels.mean, loaded.pixels.interpolation) == (f"{MODEL}/first", (0.1, 0.2, 0.3), "bilinear")
    for key, value in open_clip.create_model(MODEL, load_weights=False).state_dict().items():
        assert value.shape == loaded.model.state_dict()[key].shape
        torch.testing.assert_close(loaded.model.state_dict()[key], weights[key], rtol=0, atol=0)
    with pytest.raises(SpecError, match=r"fetch https://example.org/x.pt by hand"):
        clip_sources.source(f"{MODEL}/elsewhere", None, Folder(tmp_path))
    with pytest.raises(SpecError, match=rf"Unknown checkpoint '{MODEL}/frist'. Did you mean '{MODEL}/first'"):
        clip_sources.source(f"{MODEL}/frist", None, Folder(tmp_path))


def test_what_cannot_be_a_model(tmp_path: Path) -> None:
    kept = Folder(tmp_path / "kept")
    with pytest.raises(DataError, match=r"neither an open_clip_config.json nor a config.json"):
        clip_sources.source(str(tmp_path), None, kept)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SpecError, match="'bert'"):
        clip_sources.source(str(tmp_path), None, kept)
    with pytest.raises(SpecError, match="Did you mean 'ViT-B-32'"):
        clip_sources.source("ViT-B32", None, kept)
    with pytest.raises(DataError, match=r"nothing\.pt is not there"):
        clip_sources.source(MODEL, tmp_path / "nothing.pt", kept)
    with pytest.raises(SpecError, match="omit --checkpoint"):
        clip_sources.source("hf-hub:some/clip", tmp_path / "config.json", kept)


@pytest.mark.parametrize(
    "names", [clip_sources.LIBRARIES, metrics.LIBRARIES, score_cache.FAISS, score_cache.IMAGES, record.LIBRARIES]
)
def test_versions_are_looked_up_under_the_names_of_packages_that_are_tested(names: tuple[str, ...]) -> None:
    """A version under the name of no package is silently left out, and then another one is not noticed."""
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {name.lower() for name in names} - pinned == set()
