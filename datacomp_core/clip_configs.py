"""A model's configuration file, in open_clip's bare form or its hub form. What open_clip would ignore is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from datacomp_core.errors import DataError, nearest, unknown
from datacomp_core.untrusted_documents import read_json

NEEDED = ("embed_dim", "vision_cfg", "text_cfg")
PARTS = ("model_cfg", "preprocess_cfg")
CHOICES = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "squash")}
PREPARATION = ("size", "mode", "mean", "std", "fill_color", *CHOICES)
UNEXPECTED = re.compile(r"(?P<owner>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<name>\w+)'")
SECTIONS = {"CLIPVisionCfg": "vision_cfg", "CLIPTextCfg": "text_cfg", "MultimodalCfg": "multimodal_cfg"}


def read(path: Path) -> dict[str, Any]:
    """The configuration in the hub's form (`model_cfg`, `preprocess_cfg`). DataError or SpecError if it is none.

    The bare form has `embed_dim`, `vision_cfg` and `text_cfg` at the top; the hub's has that as `model_cfg` and may have a
    `preprocess_cfg`. Folders that are beside the file (of a tokenizer, of a text tower) become absolute paths.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a configuration of open_clip (.json).")
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} is not the configuration of a model.")
    model, preparation = found.get("model_cfg", found), found.get("preprocess_cfg", {}) if "model_cfg" in found else {}
    lacking = sorted(set(NEEDED) - set(model)) if isinstance(model, dict) else ["model_cfg"]
    if lacking:
        raise DataError(
            f"{path} has no {lacking[0]!r}: open_clip's configuration has embed_dim, vision_cfg and text_cfg, at the top or in "
            "`model_cfg`."
        )
    if "model_cfg" in found and (odd := sorted(set(found) - set(PARTS))):
        raise unknown(f"field in {path}:", odd[0], PARTS)
    _check_preparation(preparation, path)
    return {"model_cfg": _beside(model, path.parent), "preprocess_cfg": preparation}


def _check_preparation(given: Any, path: Path) -> None:
    """open_clip takes no notice of a name in `preprocess_cfg` that it does not know, and images would be prepared otherwise."""
    if not isinstance(given, dict):
        raise DataError(f"{path}: preprocess_cfg is {given!r}, but must map names to values: mean, std, interpolation, ...")
    if odd := sorted(set(given) - set(PREPARATION)):
        raise unknown(f"field in preprocess_cfg of {path}:", odd[0], PREPARATION)
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            raise unknown(f"{name} in preprocess_cfg of {path}:", str(given[name]), choices)


def _beside(model: Any, folder: Path) -> Any:
    text = model.get("text_cfg")
    if not isinstance(text, dict):
        return model
    given = {name: text.get(name) for name in ("hf_tokenizer_name", "hf_model_name")}
    there = {
        name: str((folder / value).resolve())
        for name, value in given.items()
        if isinstance(value, str) and value and (folder / value).is_dir()
    }
    return {**model, "text_cfg": {**text, **there}}


def refused_name(problem: BaseException) -> str:
    """Which name of a configuration open_clip does not take, with the nearest that it does; empty for any other error."""
    found = UNEXPECTED.search(str(problem)) if isinstance(problem, TypeError) else None
    if found is None:
        return ""
    import inspect

    import open_clip

    owner = getattr(open_clip.model, found["owner"], None) or getattr(open_clip.coca_model, found["owner"], None)
    known = [name for name in inspect.signature(owner).parameters if name != "self"] if owner else []
    section = SECTIONS.get(found["owner"], "its configuration")
    near = f"; nearest: {', '.join(nearest(found['name'], known))}" if known else ""
    return f"{section} has {found['name']!r}, which open_clip does not know{near}"
