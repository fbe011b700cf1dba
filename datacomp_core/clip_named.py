"""The model that a record names: by tag of open_clip, by file of weights, by configuration and file, or on the hub.

`model` and `weights` are those of an `Encoder`: a file is written `<path>#<digits of its content>`, so that a record says what
was used, wherever the file lies now.
"""

from __future__ import annotations

from pathlib import Path

from datacomp_core import clip, clip_hub
from datacomp_core.clip_sources import ON_HUB, FileModel, ModelSource, configured
from datacomp_core.errors import DataError
from datacomp_core.store.folder import hash_file
from datacomp_core.weights import weights as released

PIN = 16


def model_of(model: str, weights: str, sha256: str) -> ModelSource:
    """The source of a model. DataError if a file is not on this machine or has changed; SpecError for an unknown name."""
    if model.startswith(ON_HUB):
        return clip_hub.source(model, sha256)
    if "#" not in weights:
        clip.known(model)
        return FileModel(model, model, released(model, weights, sha256), tag=weights)
    if is_configuration(model):
        return _configured(model, _checked(weights, sha256))
    return FileModel(model, clip.known(model), _checked(weights, sha256))


def is_configuration(model: str) -> bool:
    """Whether a model is named by a configuration file, pinned or not."""
    return model.partition("#")[0].endswith(".json")


def pinned_configuration(model: str) -> str:
    """`<absolute path>#<digits of the content>` of a configuration file. DataError if it is none."""
    path = Path(model).expanduser().resolve()
    return f"{path}#{_digits(configured(path, None))}"


def title(model: str, weights: str) -> str:
    """How reports name a model: the configuration and the weights without their folders."""
    name = Path(model.partition("#")[0]).stem if is_configuration(model) else model
    return f"{name} {weights.rpartition('/')[2]}".strip()


def _configured(model: str, checkpoint: Path) -> FileModel:
    place, _, digits = model.rpartition("#")
    if not Path(place).is_file():
        raise DataError(f"The model configuration {place} is not on this machine: put it there.")
    made = configured(Path(place), checkpoint)
    if (given := _digits(made)) != digits:
        raise DataError(f"The model configuration {place} has changed since (it was {digits}, it is {given}): name it again.")
    return made


def _digits(made: FileModel) -> str:
    """The digits under which `configured` keeps a configuration: those of its content."""
    return made.name.removeprefix(clip.LOCAL).rstrip("/").split("/")[-2][:PIN]


def _checked(weights: str, sha256: str) -> Path:
    """The file of weights. DataError if it is another, or lies on another machine."""
    path = Path(weights.rpartition("#")[0])
    if not path.is_file():
        raise DataError(f"The weights {path} are not on this machine: put the file with sha256 {sha256} there.")
    if (given := hash_file(path)) != sha256:
        raise DataError(f"{path} has sha256 {given} and should have {sha256}: it was changed since.")
    return path
