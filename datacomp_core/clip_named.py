"""Finds the model in a record: by open_clip tag, by weights file, by configuration and file, or on the hub. `model` and
`weights` are the fields of an `Encoder`: a file is written as `<path>#<digits of its content>`, so that a record says what was
used, wherever the file is now.
"""

from __future__ import annotations

from pathlib import Path

from datacomp_core import clip, clip_hub
from datacomp_core.clip_sources import ON_HUB, FileModel, ModelSource, model_from_configuration
from datacomp_core.errors import DataError
from datacomp_core.pretrained_weights import weights as released
from datacomp_core.store.folder import hash_file

PIN = 16


def model_of(model: str, weights: str, sha256: str) -> ModelSource:
    """Return the source of a model. DataError if a file is not on this machine or has changed; SpecError for an unknown name."""
    if model.startswith(ON_HUB):
        return clip_hub.source(model, sha256)
    if "#" not in weights:
        clip.check_model(model)
        return FileModel(model, model, released(model, weights, sha256), tag=weights)
    if is_configuration(model):
        return _configured(model, _checked(weights, sha256))
    return FileModel(model, clip.check_model(model), _checked(weights, sha256))


def is_configuration(model: str) -> bool:
    """Return whether a model is given by a configuration file, pinned or not."""
    return model.partition("#")[0].endswith(".json")


def pinned_configuration(model: str) -> str:
    """`<absolute path>#<digits of the content>` of a configuration file. DataError if it is none."""
    path = Path(model).expanduser().resolve()
    return f"{path}#{_digits(model_from_configuration(path, None))}"


def title(model: str, weights: str) -> str:
    """Return a model's name for reports: the configuration and the weights without their folders."""
    name = Path(model.partition("#")[0]).stem if is_configuration(model) else model
    return f"{name} {weights.rpartition('/')[2]}".strip()


def _configured(model: str, checkpoint: Path) -> FileModel:
    place, _, digits = model.rpartition("#")
    if not Path(place).is_file():
        raise DataError(f"The model configuration {place} is not on this machine: put it there.")
    made = model_from_configuration(Path(place), checkpoint)
    if (given := _digits(made)) != digits:
        raise DataError(f"The model configuration {place} has changed (it was {digits}, it is {given}): give it again.")
    return made


def _digits(made: FileModel) -> str:
    """Return the digits of a configuration's content, which `configured` uses as its name."""
    return made.name.removeprefix(clip.LOCAL).rstrip("/").split("/")[-2][:PIN]


def _checked(weights: str, sha256: str) -> Path:
    """Return the weights file. DataError if it has changed or is not on this machine."""
    path = Path(weights.rpartition("#")[0])
    if not path.is_file():
        raise DataError(f"The weights {path} are not on this machine: put the file with sha256 {sha256} there.")
    if (given := hash_file(path)) != sha256:
        raise DataError(f"{path} has sha256 {given}, but should have {sha256}: restore the original file.")
    return path
