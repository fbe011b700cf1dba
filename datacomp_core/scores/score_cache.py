"""Keeps computed scores for later recipes: one folder per score and content of its inputs.

The folder's name follows from the contents of the files, so that a changed pool, features, pictures or model never finds an
older answer; `made_of.json` lists them, and a warning names what has changed since the same score was kept before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from datacomp_core.clip_sources import LIBRARIES, FileModel
from datacomp_core.parts import SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Score
from datacomp_core.shards import INDEX
from datacomp_core.store import Folder
from datacomp_core.store.content_marks import (
    Marks,
    Trust,
    describe_changes,
    digest,
    mark,
    marks,
    marks_as_json,
    read_marks,
    versions,
)
from datacomp_core.store.fingerprint import SHORT, canonical, fingerprint, of_content

log = logging.getLogger(__name__)

MADE_OF = "made_of.json"
FAISS = ("faiss-cpu", "faiss-gpu")
IMAGES = ("pillow", "simplejpeg", "rapidocr", "onnxruntime", "opencv-python-headless")
"""The distributions whose versions count for a score that reads features, and for one that reads pictures."""


def home_of(score: Score, source: PoolSource, kept: Folder, model: tuple[str, str] | None, trust: Trust = "content") -> Folder:
    """The folder in `kept` of a score of this content, with `made_of.json` in it."""
    before = list(_earlier(score, kept))
    known = {group: read_marks(found) for record in before for group, found in record["files"].items()}
    files = {group: found for group, found in _files(score, source, model, known, trust).items() if found}
    settings = {"score": of_content(canonical(score)), "model": _model(score, model), "versions": _versions(score)}
    name = f"{score.kind}--{fingerprint([settings, {group: digest(found) for group, found in files.items()}])[:SHORT]}"
    home = kept / name
    home.sweep_left_behind()
    if not home.exists(MADE_OF):
        _tell(score, before, settings, files)
        home.write_json(MADE_OF, {**settings, "files": {group: marks_as_json(found) for group, found in files.items()}})
    return home


def _files(
    score: Score, source: PoolSource, model: tuple[str, str] | None, known: dict[str, Marks], trust: Trust
) -> dict[str, Marks]:
    """The marks of all files that a score reads."""
    names = source.parts()
    made: dict[str, Marks] = {}

    def take(group: str, folder: Folder, only: list[str]) -> None:
        made[group] = marks(folder, only=only, known=known.get(group), trust=trust)

    tables, arrays = [f"{name}.parquet" for name in names], [f"{name}.npz" for name in names]
    take("metadata", source.metadata, tables)
    for number, folder in enumerate(source.scores if list(score.columns()) else ()):
        take(f"scores {number}", folder, tables)
    for number, folder in enumerate((source.metadata, *source.features) if list(score.feature_keys()) else ()):
        take(f"features {number}", folder, arrays)
    if source.captioned is not None:
        take("captions", source.captioned / SCORES, tables)
    if ("images" in score.needs or score.reads_index()) and source.shards is not None:
        there = source.shards.files()
        take("shards", source.shards, [name for name in there if name.endswith(".tar") or name.startswith(f"{INDEX}/")])
    if "model" in score.needs and model is not None:
        earlier = known.get("checkpoint", {}).get("checkpoint")
        made["checkpoint"] = {"checkpoint": mark(model[1], known=earlier, trust=trust)}
    return made


def _model(score: Score, model: tuple[str, str] | None) -> dict[str, str]:
    if "model" not in score.needs or model is None:
        return {}
    return {"name": model[0], **FileModel(model[0], model[0], None).made_of()}


def _versions(score: Score) -> dict[str, str]:
    """Of the libraries that can move its numbers."""
    wanted = ["numpy", "polars"]
    wanted += FAISS if list(score.feature_keys()) else ()
    wanted += IMAGES if "images" in score.needs else ()
    wanted += LIBRARIES if "model" in score.needs else ()
    return versions(*wanted)


def _earlier(score: Score, kept: Folder) -> Iterator[dict[str, Any]]:
    """Yield the records of the same score in `kept`, for any input."""
    wanted = of_content(canonical(score))
    for name in kept.folders():
        if not name.startswith(f"{score.kind}--") or not (kept / name).exists(MADE_OF):
            continue
        try:
            found = json.loads((kept / name).read(MADE_OF))
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("score") == wanted and isinstance(found.get("files"), dict):
            yield found


def _tell(score: Score, before: list[dict[str, Any]], settings: dict[str, Any], files: dict[str, Marks]) -> None:
    """Say what has changed since the last time, where the same files were meant by name."""
    for record in before:
        told = [f"another {name}" for name in ("model", "versions") if record.get(name) != settings[name]]
        for group, found in files.items():
            earlier = read_marks(record["files"].get(group, {}))
            if earlier.keys() == found.keys() and (how := describe_changes(earlier, found)):
                told.append(f"{group.partition(' ')[0]}: {how}")
        if told:
            log.warning("%s is computed again: %s", score.column_name, "; ".join(told))
            return
