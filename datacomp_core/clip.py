"""CLIP models by name or checkpoint, through open_clip: the one place that makes, loads and registers them.

Our own model configurations lie in `clip_models/`. Weights are loaded with `weights_only`, never from a hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from datacomp_core.errors import DataError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

MODELS = Path(__file__).with_name("clip_models")


@dataclass(frozen=True)
class Clip:
    """A model ready to encode: `preprocess` takes a PIL image to a float tensor (3, h, w), `tokenize` texts to (n, context)."""

    name: str
    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]


def register() -> None:
    """Make our own model names known to open_clip in this process."""
    import open_clip

    open_clip.add_model_config(MODELS)


def known(name: str) -> str:
    """`name`, if it is a model. SpecError names the nearest."""
    import open_clip

    register()
    if name not in open_clip.list_models():
        raise unknown("model", name, open_clip.list_models())
    return name


def load(name: str, checkpoint: Path | None, device: str) -> Clip:
    """The model `name` in evaluation mode with the weights of an open_clip training checkpoint or state dict (or random).

    DataError if the file cannot be read as plain weights or does not fit the model.
    """
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(known(name), device=device, load_weights=False)
    if checkpoint is not None:
        model.load_state_dict(state_dict(checkpoint, name))
    model.eval()
    return Clip(name, model, cast("Callable[[Any], torch.Tensor]", preprocess), open_clip.get_tokenizer(name))


def state_dict(checkpoint: Path, name: str) -> dict[str, Any]:
    """The weights in a checkpoint file, without DDP's `module.` prefix. Nothing in it is executed."""
    import torch

    try:
        if checkpoint.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(checkpoint)
        else:
            found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise DataError(
            f"{checkpoint} cannot be read as plain weights for {name}: {type(problem).__name__}: {problem}"
        ) from problem
    weights: dict[str, Any] = found.get("state_dict", found)
    return {key.removeprefix("module."): value for key, value in weights.items()}


def default_device() -> str:
    import torch

    from datacomp_core.settings import settings

    return settings().device or ("cuda" if torch.cuda.is_available() else "cpu")
