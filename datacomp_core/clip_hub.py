"""Uses CLIP models of the hub as scorers: `hf-hub:OWNER/NAME@COMMIT`, identified by the commit and the sha256 of its weights.
A name without a commit is pinned when it is read. Fetched files are in `<home>/assets/hub`, one folder per commit, so that
another process or machine has the same model or none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from datacomp_core import hub
from datacomp_core.checkpoints import INDEX
from datacomp_core.clip_sources import ON_HUB, ModelSource, best_weights, fetch_repository, hash_of, in_folder, weights_in
from datacomp_core.errors import DataError, SpecError
from datacomp_core.settings import settings
from datacomp_core.store.folder import Folder

NAME = re.compile(rf"{ON_HUB}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PIN = "pin.json"


class Pinned(NamedTuple):
    """`model` has the commit; `sha256` is the hash of the weights (of shards: a hash over theirs)."""

    model: str
    sha256: str


def pin(model: str) -> Pinned:
    """Pin a model to its current commit on the hub. SpecError for an invalid name, DataError if it has no weights."""
    repository, revision = _parts(model)
    found = hub.snapshot("model", repository, revision)
    stated = "" if (best := best_weights(found)).endswith(INDEX) else found.file(best).sha256
    if not stated:  # the hub states the sha256 of large files only
        stated = hash_of(weights_in(fetch_repository(repository, _kept(repository, found.commit), revision=found.commit)))
    return Pinned(f"{ON_HUB}{repository}@{found.commit}", stated)


def remembered(model: str) -> Pinned:
    """As `pin`, but a pin known to this home is reused: for models in recipes, so that they also work offline."""
    home = Folder(settings().home / "assets" / "hub" / _parts(model)[0])
    if not home.exists(PIN):
        home.write_json(PIN, pin(model)._asdict())
    return Pinned(**home.read_json(PIN))


def is_pinned(model: str) -> bool:
    found = NAME.fullmatch(model)
    return found is not None and COMMIT.fullmatch(found["revision"] or "") is not None


def source(model: str, sha256: str) -> ModelSource:
    """Return the model of a pinned name, fetched once. DataError if its weights have a different hash."""
    repository, commit = _parts(model)
    folder = fetch_repository(repository, _kept(repository, commit), revision=commit)
    if (given := hash_of(weights_in(folder))) != sha256:
        raise DataError(
            f"The weights of {model} have sha256 {given}, but should have {sha256}: remove {folder} to fetch them again."
        )
    return in_folder(folder)


def _parts(model: str) -> tuple[str, str]:
    found = NAME.fullmatch(model)
    if found is None:
        raise SpecError(f"{model!r} is not a hub model: give {ON_HUB}OWNER/NAME or {ON_HUB}OWNER/NAME@REVISION.")
    return found["repository"], found["revision"] or "main"


def _kept(repository: str, commit: str) -> Path:
    return settings().home / "assets" / "hub" / repository / commit
