"""Loads CLIP models from a checkpoint file, a step's output, a released checkpoint by name, a folder, or the hub. A source can
be pickled, so that the process of each device can load the model. It also describes the model without loading it: `made_of`
names everything that can change a number, and is part of the key of every kept result. No code from a hub is executed: weights
are safetensors or are read with `weights_only`, and a folder's code is never imported.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from datacomp_core import clip, clip_configs, hub
from datacomp_core.checkpoints import INDEX, shards_of
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.settings import settings
from datacomp_core.store.content_marks import hash_json, versions
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.folder import Folder, hash_file
from datacomp_core.untrusted_documents import read_json

WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIG = "open_clip_config.json"
ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
ON_HUB = "hf-hub:"
PLAIN = (".json", ".txt", ".safetensors", ".model")
SETTINGS = (".json", ".txt", ".model", ".jinja")
LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers", "tokenizers", "pillow", "simplejpeg", "numpy")
"""Their versions are part of the key of kept results: each of them can change a number."""


class ModelSource(Protocol):
    """A model that can be loaded any number of times. `title` is its name in reports."""

    @property
    def title(self) -> str: ...
    def fingerprint(self) -> str:
        """The sha256 of its weights, or a replacement for it."""
        ...

    def made_of(self) -> dict[str, str]:
        """Everything except its weights that can change a number, by name: configuration, preprocessing, tokenizer, libraries."""
        ...

    def dim(self) -> int:
        """The number of dimensions of its features."""
        ...

    def load(self, device: str) -> clip.Clip: ...


@dataclass(frozen=True)
class FileModel:
    """An open_clip model by name with the weights of a file (None: random weights). `options` are passed to `clip.load`. With
    a `tag` it is built as open_clip's entry of these weights requires. `place` is the user's file or folder, for errors.
    """

    title: str
    name: str
    checkpoint: Path | None
    options: tuple[tuple[str, Any], ...] = ()
    tag: str = ""
    place: str = ""

    def fingerprint(self) -> str:
        return hash_of(self.checkpoint) if self.checkpoint else "random"

    def made_of(self) -> dict[str, str]:
        with self._told():
            made_as = clip.as_trained(self.name, self.tag) if self.tag else {}
            return _of_open_clip(self.name) | {"options": hash_json([self.tag, made_as, self.options])}

    def dim(self) -> int:
        return int(clip.config_of(self.name)["embed_dim"])

    def load(self, device: str) -> clip.Clip:
        with self._told():
            return clip.load(self.name, self.checkpoint, device, tag=self.tag, options=dict(self.options))

    @contextmanager
    def _told(self) -> Generator[None]:
        """Errors name the file or folder that the user gave, not the copy of its configuration."""
        try:
            yield
        except DataError as problem:
            kept = self.name.removeprefix(clip.LOCAL)
            if not self.place or kept not in str(problem):
                raise
            told = str(problem).replace(self.name, self.place).replace(kept, self.place)
            raise DataError(told) from problem


@dataclass(frozen=True)
class StoredModel:
    """`checkpoint.pt` in a folder of the store."""

    title: str
    folder: Folder
    sha256: str

    def fingerprint(self) -> str:
        return self.sha256

    def made_of(self) -> dict[str, str]:
        return _of_open_clip(self.title)

    def dim(self) -> int:
        return int(clip.config_of(self.title)["embed_dim"])

    def load(self, device: str) -> clip.Clip:
        with self.folder.open("checkpoint.pt") as file:
            return clip.load(self.title, file, device)


@dataclass(frozen=True)
class TransformersModel:
    """A folder of the transformers library with a CLIP: `config.json`, weights, tokenizer and the processor's settings."""

    folder: Path

    @property
    def title(self) -> str:
        return self.folder.name

    def fingerprint(self) -> str:
        return hash_of(weights_in(self.folder))

    def made_of(self) -> dict[str, str]:
        return _settings_of(self.folder) | versions(*LIBRARIES)

    def dim(self) -> int:
        return int(_json(self.folder / "config.json").get("projection_dim", 512))

    def load(self, device: str) -> clip.Clip:
        from datacomp_core.clip_transformers import load

        return load(self.folder, weights_in(self.folder), device)


def source(model: str, checkpoint: Path | None, kept: Folder) -> ModelSource:
    """Return the source for `model`: an open_clip name, with the weights of `checkpoint`; `NAME/TAG` for released weights of
    open_clip's list; a folder with an `open_clip_config.json` or of transformers; an open_clip configuration file (.json), with
    the weights of `checkpoint`; `hf-hub:owner/name`. Files from the hub are kept below `kept`.
    """
    if model.endswith(".json"):
        return model_from_configuration(Path(model), _checked(checkpoint))
    if checkpoint is not None and (Path(model) / CONFIG).is_file() and not _has_weights(Path(model)):
        own = Path(model).resolve()
        return FileModel(own.name, f"{clip.LOCAL}{own}", _checked(checkpoint), place=str(own))
    if model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        raise SpecError(f"There is no model at {model}: give a folder with {CONFIG} or a config.json, and weights.")
    if not is_architecture(model):
        if checkpoint is not None:
            raise SpecError(f"The model {model} already has weights: omit --checkpoint, or give only the architecture.")
        return _with_weights(model, kept)
    return FileModel(model, clip.check_model(model), _checked(checkpoint))


def is_architecture(model: str) -> bool:
    """Whether a model is named without weights: by a configuration file, or by a name of open_clip."""
    return model.endswith(".json") or not (Path(model).is_dir() or model.startswith(ON_HUB) or "/" in model)


def require_weights(model: str, checkpoint: Path | None) -> None:
    """SpecError if an architecture is named and no weights for it: random ones score nothing."""
    if checkpoint is None and is_architecture(model):
        if not model.endswith(".json"):
            clip.check_model(model)
        raise SpecError(f"{model} has no pretrained weights: give them with --checkpoint FILE.")
    if checkpoint is None and (Path(model) / CONFIG).is_file() and not _has_weights(Path(model)):
        raise SpecError(f"{model} has an {CONFIG} and no weights: give them with --checkpoint FILE, or put them there.")


def model_from_configuration(config: Path, checkpoint: Path | None) -> FileModel:
    """The model of a configuration file (see `clip_configs.read`). DataError or SpecError if it is none.

    The file is kept in the hub form, below the home folder and under its hash, from where other processes load it too.
    """
    whole = clip_configs.read(config)
    title = config.resolve().parent.name if config.name == CONFIG else config.stem
    home = Folder(settings().home / "assets" / "configs" / hash_json(whole) / title)
    if not home.exists(CONFIG):
        home.write_json(CONFIG, whole)
    return FileModel(title, f"{clip.LOCAL}{home.url}", checkpoint, place=str(config))


def _checked(checkpoint: Path | None) -> Path | None:
    if checkpoint is not None and not checkpoint.is_file():
        raise DataError(
            f"{checkpoint} is a folder: give a checkpoint file, or name the folder as the model."
            if checkpoint.is_dir()
            else f"{checkpoint} is not there."
        )
    return checkpoint


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in ENDINGS and path.is_file() for path in folder.iterdir())


def released_source(name: str, tag: str, kept: Folder) -> ModelSource:
    """Return a released checkpoint of open_clip's list, from the hub. SpecError if there is none, or if it is not on the hub."""
    clip.check_model(name)
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
    path = _fetched(repository, kept=kept, file=file)
    options: dict[str, Any] = {
        f"image_{key}": config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key)
    }
    if config.get("quick_gelu"):
        options["force_quick_gelu"] = True
    return FileModel(f"{name}/{tag}", name, weights_in(path) if not file else path / file, tuple(sorted(options.items())))


def weights_in(folder: Path) -> Path:
    """Return the weights file, or the index of its shards, in a model's folder: the usual names first, else the only such
    file."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is not None:
        return found
    others = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS and path.is_file())
    if len(others) != 1:
        have = f"it has {', '.join(path.name for path in others)}" if others else "it has none"
        raise DataError(f"{folder} does not have exactly one weights file ({have}): provide one of {', '.join(WEIGHTS)}.")
    return others[0]


# ---------------------------------------------------------------------------------------------------------------------


def _of_open_clip(name: str) -> dict[str, str]:
    if name.startswith(clip.LOCAL):
        own = _settings_of(Path(name.removeprefix(clip.LOCAL)))
    else:
        own = {"config": hash_json(clip.config_of(name))}
    for setting, place in clip.text_places(name).items():
        own |= {f"{setting} {file}": value for file, value in _settings_of(Path(place)).items()}
    return own | versions(*LIBRARIES)


def _settings_of(folder: Path) -> dict[str, str]:
    """Return the hashes of the small files of a model's folder: configuration, preprocessing, tokenizer."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in SETTINGS and path.is_file() and path.name != hub.RECORD)
    return {path.name: hash_file(path) for path in paths if not path.name.endswith(INDEX)}


def hash_of(weights: Path) -> str:
    """Return the sha256 of a weights file; for shards, a hash over theirs."""
    if not weights.name.endswith(INDEX):
        return hash_file(weights)
    return fingerprint({path.name: hash_file(path) for path in shards_of(weights)})


def _with_weights(model: str, kept: Folder) -> ModelSource:
    if Path(model).is_dir():
        return in_folder(Path(model).resolve())
    if model.startswith(ON_HUB):
        return in_folder(_fetched(*model.removeprefix(ON_HUB).partition("@")[::2], kept=kept))
    name, _, tag = model.partition("/")
    return released_source(name, tag, kept)


def in_folder(folder: Path) -> ModelSource:
    """Return the CLIP in a folder of open_clip or transformers. DataError or SpecError if there is none."""
    if (folder / CONFIG).is_file():
        return FileModel(folder.name, f"{clip.LOCAL}{folder}", weights_in(folder), place=str(folder))
    found = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if "model_type" not in found:
        raise DataError(f"{folder} has neither an open_clip_config.json nor a config.json of a CLIP.")
    if found["model_type"] != "clip":
        raise SpecError(f"{folder} contains a transformers model of the kind {found['model_type']!r}: only 'clip' is supported.")
    return TransformersModel(folder)


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a model configuration.")
    return found


def fetch_repository(repository: str, kept: Path, *, revision: str = "main", file: str = "") -> Path:
    """Fetch the plain files of a model repository, with `file` or the best form of its weights, into the folder `kept`. Files
    of a commit that an earlier call fetched are reused without asking the hub.
    """
    record = hub.recorded(Folder(kept))
    if record is not None and record["commit"] == revision:
        return kept
    found = hub.snapshot("model", repository, revision)
    names = {entry.path for entry in found.files}
    best = file or best_weights(found)
    found.file(best)
    small = {name for name in names if "/" not in name and name.endswith(PLAIN) and not name.endswith(".safetensors")}
    hub.fetch(found, Folder(kept), only=lambda path: path in _with_shards(best, names) or path in small)
    return kept


def best_weights(found: hub.Snapshot) -> str:
    """Return the weights file of a model repository in its best form. DataError if there is none."""
    names = {entry.path for entry in found.files}
    best = next((name for name in WEIGHTS if name in names), "")
    if not best:
        raise DataError(f"The hub's model {found.repository} has no weights: it needs one of {', '.join(WEIGHTS)}.")
    return best


def _fetched(repository: str, revision: str = "", *, kept: Folder, file: str = "") -> Path:
    return fetch_repository(repository, (kept / repository).path, revision=revision or "main", file=file)


def _with_shards(best: str, names: Iterable[str]) -> set[str]:
    """Return the weights file, and its shards if it is an index."""
    if not best.endswith(INDEX):
        return {best}
    stem, _, ending = best.removesuffix(INDEX).rpartition(".")
    return {best, *(name for name in names if name.startswith(f"{stem}-") and name.endswith(f".{ending}"))}
