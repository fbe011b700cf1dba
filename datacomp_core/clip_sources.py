"""Where a CLIP to evaluate may come from: a checkpoint file, a step's output, a released checkpoint by name, a folder, the hub.

A source pickles, so that each process of several devices can load the model for itself. Nothing from a hub is executed:
weights are safetensors or are read with `weights_only`, and a folder's own code is never imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datacomp_core import clip, hub
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.store.folder import Folder, hash_file

if TYPE_CHECKING:
    import torch

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
ON_HUB = "hf-hub:"
PLAIN = (".json", ".txt", ".safetensors", ".model")


class ModelSource(Protocol):
    """A model that can be loaded, any number of times. `title` is how a report names it."""

    @property
    def title(self) -> str: ...
    def fingerprint(self) -> str:
        """The sha256 of its weights, or what stands for them."""
        ...

    def load(self, device: str) -> clip.Clip: ...


@dataclass(frozen=True)
class FileModel:
    """An open_clip model by name with the weights of a file; None: random ones. `options` are those of `clip.load`."""

    title: str
    name: str
    checkpoint: Path | None
    options: tuple[tuple[str, Any], ...] = ()

    def fingerprint(self) -> str:
        return hash_file(self.checkpoint) if self.checkpoint else "random"

    def load(self, device: str) -> clip.Clip:
        return clip.load(self.name, self.checkpoint, device, options=dict(self.options))


@dataclass(frozen=True)
class StoredModel:
    """`checkpoint.pt` in a folder of the store."""

    title: str
    folder: Folder
    sha256: str

    def fingerprint(self) -> str:
        return self.sha256

    def load(self, device: str) -> clip.Clip:
        with self.folder.open("checkpoint.pt") as file:
            return clip.load(self.title, file, device)


@dataclass(frozen=True)
class TransformersModel:
    """A folder of the transformers library with a CLIP: `config.json`, weights, tokenizer and `preprocessor_config.json`."""

    folder: Path

    @property
    def title(self) -> str:
        return self.folder.name

    def fingerprint(self) -> str:
        return hash_file(_weights_in(self.folder))

    def load(self, device: str) -> clip.Clip:
        import transformers

        try:
            model: Any = transformers.CLIPModel.from_pretrained(self.folder, local_files_only=True)
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as problem:  # transformers raises a dozen kinds
            raise DataError(f"{self.folder} cannot be loaded as a CLIP of transformers: {problem}") from problem
        pixels = _transformers_pixels(self.folder)
        length = int(model.config.text_config.max_position_embeddings)

        def tokenize(texts: list[str]) -> torch.Tensor:
            found = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            return found["input_ids"]

        def preprocess(image: Any) -> torch.Tensor:
            import torch

            scaled = torch.from_numpy(pixels(image)).float().div_(255)
            return (scaled - torch.tensor(pixels.mean).view(3, 1, 1)) / torch.tensor(pixels.std).view(3, 1, 1)

        dim = int(model.config.projection_dim)
        return clip.ready(clip.Clip(self.title, _towers(model).to(device), preprocess, tokenize, device, pixels, dim))


def source(model: str, checkpoint: Path | None, kept: Folder) -> ModelSource:
    """The model that `model` names.

    An open_clip name, with the weights of `checkpoint`; `NAME/TAG` for released weights of open_clip's list; a folder with an
    `open_clip_config.json` or of transformers; `hf-hub:owner/name`. What comes from the hub is kept below `kept`.
    """
    if Path(model).is_dir() or model.startswith(ON_HUB) or "/" in model:
        if checkpoint is not None:
            raise SpecError(f"The model {model} has weights of its own: leave --checkpoint out, or name the architecture alone.")
        return _with_weights(model, kept)
    if checkpoint is not None and not checkpoint.is_file():
        raise DataError(f"{checkpoint} is not there.")
    return FileModel(model, clip.known(model), checkpoint)


def released(name: str, tag: str, kept: Folder) -> ModelSource:
    """A released checkpoint of open_clip's list, from the hub. SpecError if there is none, or if it does not lie on the hub."""
    clip.known(name)
    import open_clip

    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        raise unknown(
            "checkpoint", f"{name}/{tag}", [f"{name}/{known}" for known in open_clip.list_pretrained_tags_by_model(name)]
        )
    place = str(config.get("hf_hub") or "")
    if not place:
        raise SpecError(f"{name}/{tag} is not on the hub: fetch {config.get('url')} by hand and give it as --checkpoint.")
    repository, _, file = place.rpartition("/")
    path = _fetched(repository, kept, file=file)
    options: dict[str, Any] = {
        f"image_{key}": config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key)
    }
    if config.get("quick_gelu"):
        options["force_quick_gelu"] = True
    return FileModel(f"{name}/{tag}", name, _weights_in(path) if not file else path / file, tuple(sorted(options.items())))


# ---------------------------------------------------------------------------------------------------------------------


def _with_weights(model: str, kept: Folder) -> ModelSource:
    if Path(model).is_dir():
        return _in_folder(Path(model).resolve())
    if model.startswith(ON_HUB):
        return _in_folder(_fetched(model.removeprefix(ON_HUB), kept))
    name, _, tag = model.partition("/")
    return released(name, tag, kept)


def _in_folder(folder: Path) -> ModelSource:
    if (folder / "open_clip_config.json").is_file():
        return FileModel(folder.name, f"{clip.LOCAL}{folder}", _weights_in(folder))
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{folder} has neither an open_clip_config.json nor a config.json of a CLIP.") from problem
    if kind != "clip":
        raise SpecError(f"{folder} holds a model of the kind {kind!r}; of transformers' models only 'clip' can be evaluated.")
    return TransformersModel(folder)


def _weights_in(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{folder} has no weights: one of {', '.join(WEIGHTS)} is wanted.")
    return found


def _fetched(repository: str, kept: Folder, *, file: str = "") -> Path:
    """The plain files of a model repository, with `file` or the best form of its weights."""
    found = hub.snapshot("model", repository)
    names = {entry.path for entry in found.files}
    best = file or next((name for name in WEIGHTS if name in names), "")
    if not best:
        raise DataError(f"The hub's model {repository} has no weights: one of {', '.join(WEIGHTS)} is wanted.")
    found.file(best)
    small = {name for name in names if "/" not in name and name.endswith(PLAIN) and not name.endswith(".safetensors")}
    out = kept / repository
    hub.fetch(found, out, only=lambda path: path == best or path in small)
    return out.path


def _transformers_pixels(folder: Path) -> clip.Pixels:
    """`preprocessor_config.json` as our transform. SpecError for a kind that has no equal."""
    try:
        found: dict[str, Any] = json.loads((folder / "preprocessor_config.json").read_text())
        size, crop = found["size"], found.get("crop_size", found["size"])
        short = int(size["shortest_edge"] if isinstance(size, dict) else size)
        height, width = (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop))
        (red, green, blue), (reds, greens, blues) = found["image_mean"], found["image_std"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{folder}/preprocessor_config.json is missing or not that of a CLIP ({problem!r}).") from problem
    if not short == height == width or found.get("resample", 3) not in (2, 3):
        raise SpecError(f"{folder} wants images resized to {short} and cut to {height}x{width}, which is not supported.")
    kind = "bilinear" if found.get("resample", 3) == 2 else "bicubic"
    return clip.Pixels(height, width, (red, green, blue), (reds, greens, blues), kind)


def _towers(model: Any) -> Any:
    """A transformers CLIP with open_clip's two methods."""
    import torch

    def features(found: Any) -> torch.Tensor:
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    class Towers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = model

        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            return features(self.clip.get_image_features(pixel_values=pixels))

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return features(self.clip.get_text_features(input_ids=tokens))

    return Towers()
