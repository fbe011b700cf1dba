"""Builds, loads and registers CLIP models by name or checkpoint, through open_clip. Our model configurations are in
`clip_models/`. `checkpoints` reads the weights, never a hub. The image transform is open_clip's, split in two:
`image_preprocessing` resizes and crops, and the device normalises.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from datacomp_core.clip_configs import refused_name
from datacomp_core.errors import DataError, SpecError, short_text, unknown
from datacomp_core.image_preprocessing import PixelArray, Pixels
from datacomp_core.pretrained_weights import pretrained
from datacomp_core.tokens import with_cache
from datacomp_core.untrusted_documents import read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

LOCAL = "local-dir:"
TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
MODELS = Path(__file__).with_name("clip_models")

HUB_SECONDS = 10
CONTEXT_LENGTH = 77
SMALL = 20_000_000  # parameters; on a CPU smaller models are not worth several threads (same bits either way)

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Clip:
    """A model ready to encode: `preprocess` converts a PIL image to a float tensor (3, h, w), `tokenize` converts texts to (n,
    context). `tokenizer`: the name with which open_clip makes the same tokenizer in another process; empty if it cannot.
    """

    name: str
    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]
    device: str
    pixels: Pixels
    dim: int
    tokenizer: str = ""
    _scale: dict[str, Any] = field(default_factory=dict, repr=False)

    def encode_images(self, pixels: PixelArray, precision: Precision = "fp32") -> torch.Tensor:
        """Return normalised image features, float (n, d) on the device, for uint8 pixels (n, 3, h, w), which stay in use until
        then."""
        import torch

        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True).float().div_(255)
        with torch.inference_mode(), self.autocast(precision):
            features = self._model.encode_image(self._normalised(batch))
            return torch.nn.functional.normalize(features, dim=-1)

    def encode_texts(self, texts: list[str], precision: Precision = "fp32") -> torch.Tensor:
        """Normalised text features, float (n, d) on the device."""
        return self.encode_tokens(self.tokenize(texts), precision)

    def encode_tokens(self, tokens: torch.Tensor, precision: Precision = "fp32") -> torch.Tensor:
        """Normalised text features, float (n, d) on the device, of tokens (n, context)."""
        import torch

        tokens = tokens.to(self.device, non_blocking=True)
        with torch.inference_mode(), self.autocast(precision):
            return torch.nn.functional.normalize(self._model.encode_text(tokens), dim=-1)

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """fp32 means no autocast."""
        import torch

        if precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.autocast(torch.device(self.device).type, dtype=kind)

    @property
    def _model(self) -> Any:
        return self.model

    def _normalised(self, batch: torch.Tensor) -> torch.Tensor:
        import torch

        if not self._scale:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(self.pixels, name), dtype=torch.float32, device=self.device)
                self._scale[name] = values.view(3, 1, 1)
        return batch.sub_(self._scale["mean"]).div_(self._scale["std"])


def register() -> None:
    """Make our own model names known to open_clip in this process."""
    if "torch" not in sys.modules:  # read once, when torch's OpenMP is loaded: waiting threads must not occupy shared cores
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import open_clip

    open_clip.add_model_config(MODELS)


def config(name: str) -> dict[str, Any] | None:
    """A model's configuration file, ours or open_clip's, read without importing either; None if there is none."""
    found = importlib.util.find_spec("open_clip")
    theirs = [Path(place) / "model_configs" for place in (found.submodule_search_locations or [])] if found else []
    for place in (MODELS, *theirs):
        if (path := place / f"{name}.json").exists():
            return read_json(path)
    return None


def check_model(name: str) -> str:
    """Return `name` if it is a model. SpecError names the nearest."""
    register()
    import open_clip

    if name not in open_clip.list_models():
        raise unknown("model", name, open_clip.list_models())
    return name


def load(
    name: str,
    checkpoint: Path | IO[bytes] | None,
    device: str,
    *,
    tag: str = "",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Clip:
    """Load the model `name` in evaluation mode with the weights of an open_clip training checkpoint or state dict (or random).
    `name` is an open_clip name, or `local-dir:FOLDER` for a folder with an `open_clip_config.json`. `options` are passed to
    open_clip's `create_model_and_transforms`. With a `tag` the file contains open_clip's pretrained weights, and preprocessing
    and activation follow its entry. DataError if the file cannot be read as plain weights or does not fit the model.
    """
    register() if name.startswith(LOCAL) else check_model(name)
    import open_clip

    from datacomp_core.checkpoints import checkpoint_name, fit, read_weights, require_finite
    from datacomp_core.device import check_device

    check_device(device)
    places = text_places(name)
    made_as = {**(as_trained(name, tag) if tag else {}), **options}
    weights = read_weights(checkpoint, name) if checkpoint is not None else None
    with _quiet(), _told(name):
        text = {"text_cfg": config_of(name)["text_cfg"] | places | {"hf_model_pretrained": False}} if places else {}
        model, _, preprocess = open_clip.create_model_and_transforms(name, device=device, load_weights=False, **text, **made_as)
        tokenize = tokenizer_of(name)
    if weights is not None and checkpoint is not None:
        fit(model, weights, name, checkpoint_name(checkpoint))
    else:
        require_finite(model, name)
    pixels = _pixels(cast("Any", model).visual.preprocess_cfg, name)
    dim = int(config_of(name)["embed_dim"])
    transform = cast("Callable[[Any], torch.Tensor]", preprocess)
    return set_evaluation_mode(Clip(name, model, transform, tokenize, device, pixels, dim, tokenizer=name))


def state_dict(checkpoint: Path | IO[bytes], name: str) -> dict[str, Any]:
    """Return the weights in a checkpoint file by their plain names. No code in it is executed."""
    from datacomp_core.checkpoints import read_weights

    return read_weights(checkpoint, name)


def set_evaluation_mode(clip: Clip) -> Clip:
    """Put the model into evaluation mode with a suitable number of threads."""
    import torch

    clip.model.eval()
    if clip.device == "cpu" and sum(value.numel() for value in clip.model.parameters()) < SMALL:
        torch.set_num_threads(1)
    return clip


def as_trained(name: str, tag: str) -> dict[str, Any]:
    """Return the model options that the weights of a tag require: open_clip itself only warns if they differ from the default."""
    entry = pretrained(name, tag)
    return {
        "force_quick_gelu": bool(entry.get("quick_gelu", False)),
        "image_mean": entry.get("mean"),
        "image_std": entry.get("std"),
        "image_interpolation": entry.get("interpolation"),
        "image_resize_mode": entry.get("resize_mode"),
    }


def _pixels(config: dict[str, Any], name: str) -> Pixels:
    size = config["size"]
    high, wide = (size, size) if isinstance(size, int) else size[-2:]
    mode = config.get("resize_mode") or "shortest"
    if mode == "longest" or (mode == "shortest" and high != wide):
        raise SpecError(f"The model {name} needs images of {high}x{wide} resized by {mode!r}, which is not supported.")
    interpolation = config.get("interpolation") or "bicubic"
    mean, std = (value if isinstance(value, list | tuple) else (value,) * 3 for value in (config["mean"], config["std"]))
    try:
        return Pixels(int(high), int(wide), cast("Any", tuple(mean)), cast("Any", tuple(std)), interpolation, mode)
    except DataError as problem:
        raise DataError(f"The model {name.removeprefix(LOCAL)} cannot be used. {problem}") from problem


def text_places(name: str) -> dict[str, str]:
    """Return the local folders of a text tower and tokenizer that open_clip would read from the hub, by setting. DataError, at
    once, if they are not on this machine and the hub does not answer: open_clip itself would try five times and end with a
    traceback. A folder with tokenizer files uses its own; other folders use the named one.
    """
    found = config_of(name).get("text_cfg") or {}
    own = name.startswith(LOCAL) and any((Path(name.removeprefix(LOCAL)) / file).is_file() for file in TOKENIZER)
    wanted = {"hf_model_name": "config.json"} | ({} if own else {"hf_tokenizer_name": "tokenizer_config.json"})
    return {key: _on_this_machine(name, str(found[key]), file) for key, file in wanted.items() if found.get(key)}


def config_of(name: str) -> dict[str, Any]:
    """Return the configuration of a model by name or folder. DataError if a folder has none."""
    if name.startswith(LOCAL):
        path = Path(name.removeprefix(LOCAL)) / "open_clip_config.json"
        try:
            found: dict[str, Any] = read_json(path)["model_cfg"]
            return found | {"text_cfg": dict(found["text_cfg"]), "embed_dim": int(found["embed_dim"])}
        except (ValueError, KeyError, TypeError) as problem:
            raise DataError(f"{path} is not the configuration of an open_clip model ({problem!r}).") from problem
    return config(name) or {}


def tokenizer_of(name: str) -> Callable[[list[str]], torch.Tensor]:
    """Return open_clip's tokenizer of a model from files on this machine; its own tokenizer gets a word cache."""
    register()
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    place = text_places(name).get("hf_tokenizer_name")
    if place is None:
        return with_cache(open_clip.get_tokenizer(name))
    told = config_of(name)["text_cfg"]
    return HFTokenizer(
        place,
        context_length=told.get("context_length", CONTEXT_LENGTH),
        tokenizer_mode=told.get("tokenizer_mode"),
        **told.get("tokenizer_kwargs", {}),
    )


def _on_this_machine(name: str, repository: str, file: str) -> str:
    if Path(repository).is_dir():
        return repository
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, file)
        if not isinstance(found, str):
            place = os.environ.get("HF_ENDPOINT") or None
            HfApi(endpoint=place).model_info(repository, timeout=HUB_SECONDS)
            snapshot_download(repository, allow_patterns=["*.json", "*.txt", "*.model"], endpoint=place)
            found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return str(Path(found).parent)
        told = f"it has no {file}"
    except HFValidationError as problem:
        told = f"{repository!r} is neither a folder nor a repository: {problem}"
    except Exception as problem:  # from the hub's client, its HTTP library, or the network
        told = f"the hub does not answer: {type(problem).__name__}"
    raise DataError(
        f"The model {name.removeprefix(LOCAL)} reads {file} of {repository}, which is not on this machine ({told}): run `hf "
        f"download {repository}` on a machine with a network (HF_ENDPOINT may name a mirror) and copy its cache (HF_HOME) here."
    )


@contextmanager
def _told(name: str) -> Generator[None]:
    """Convert what open_clip raises when a model cannot be built into one sentence."""
    try:
        yield
    except Exception as problem:  # from open_clip, timm, transformers and torch: a dozen exception types
        told = refused_name(problem) or short_text(problem)
        if isinstance(problem, AssertionError) and not problem.args:  # only the failed condition is known
            told = f"its configuration fails the check `{traceback.extract_tb(problem.__traceback__)[-1].line}`"
        raise DataError(f"The model {name.removeprefix(LOCAL)} cannot be built: {told}") from problem


@contextmanager
def _quiet() -> Generator[None]:
    """Keep open_clip's remarks on the root logger out of the user's log; its errors stay."""

    def ours(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "open_clip" not in record.pathname

    root = logging.getLogger()
    root.addFilter(ours)
    try:
        yield
    finally:
        root.removeFilter(ours)
