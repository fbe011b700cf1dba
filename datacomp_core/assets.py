"""Provides files that filters need: language models, word lists, centroids. Each row is an asset: its source, its sha256, and
the installed package that ships it, if any. A file with a different hash is never used. Downloads are written atomically to
`<home>/assets`; put a file there by hand when offline.
"""

from __future__ import annotations

import hashlib
import urllib.request
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from datacomp_core.errors import DataError, StoreError, unknown
from datacomp_core.settings import settings
from datacomp_core.store.folder import Folder

TIMEOUT_SECONDS = 60
BASELINE_ASSETS = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"

IN_PLACE_OF_VECTORS = "give your own file of vectors (centroids: `datacomp cluster`)"


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
            instead="choose the model lid.176.ftz, which is part of the installation",
        ),
        Asset(
            "lid.176.ftz",
            "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz",
            "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            package="datacomp_core",
            inside="fasttext/lid.176.ftz",
            instead="install this package again, which contains it",
        ),
        Asset(
            "imagenet21k_wordnet_ids.txt",
            f"{BASELINE_ASSETS}/imagenet21k_wordnet_ids.txt",
            "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2",
            package="timm",
            inside="data/_info/imagenet21k_goog_synsets.txt",
            instead="install the package timm, which ships it",
        ),
        *(
            Asset(f"{name}.pt", f"{BASELINE_ASSETS}/{name}.pt", sha256, instead=IN_PLACE_OF_VECTORS)
            for name, sha256 in (
                ("in1k_clip_vit_l14_0", "304990fd492f40ba90072b80af78d6e8edcab9d042476ef513e03441cf53743b"),
                ("in1k_clip_vit_l14_1", "72f008e6aa3bfb54174fa322963215337f843fc90fd642a9dccc815dd9e7ee76"),
                ("in1k_clip_vit_l14_2", "83c3cc6503b8a50a22cac7023ca6cd61b130ab9725db2a7519f1bec5cabf5493"),
                ("in1k_clip_vit_l14_3", "83faa289f847799ddcd438e5b74df1cb5973c345674896d10ba31ea48bc63804"),
                ("in1k_clip_vit_l14_4", "067a45f4a140a93371876510a2fd9198a89ac1d194ae4063a51b45a6da69cadf"),
                ("small_centroids_l14", "23c66a05e49ad77283c1e2b33355c7eb088ac332a944c97ff85d5dfd48a5b251"),
                ("medium_centroids_l14", "028b1721b1d0f139c565b6b0ac99f8a1756f4bae89c36b0ec6d1c6ea9b6f112d"),
                ("large_centroids_l14", "04eeab1069d3540c246cf7ce69323147351a474017fc472e4c50a018ca32240b"),
                ("xlarge_centroids_l14", "3f62e5f8ae3a715ce84e422846fcfce1536d184455ea234790c4a6465c4c6726"),
            )
        ),
    )
}


@cache
def asset(name: str) -> Path:
    """Return the local path of an asset with the right hash. StoreError if it is not available; DataError if its hash is
    wrong."""
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
    """Return a file of an installed package without importing the package."""
    spec = find_spec(row.package) if row.package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / row.inside
    if not path.is_file() or _sha256(path) != row.sha256:
        return None  # a different release of the package ships a different file
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
        raise DataError(f"{row.name} has sha256 {found}, but should have {row.sha256}{advice}.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
