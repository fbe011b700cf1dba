"""Pretrained CLIP weights by open_clip's tag and their sha256: a file whose hash differs is never used.

Downloads are in `<home>/assets/clip`; put a file there by hand when offline, under the name `<sha256>` with its own ending.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from datacomp_core.errors import DataError, StoreError, unknown
from datacomp_core.settings import settings
from datacomp_core.store.folder import hash_file, scratch

ENDINGS = (".pt", ".bin", ".safetensors")


def pretrained(model: str, tag: str) -> dict[str, Any]:
    """open_clip's entry of a tag: where its weights are, and what its images and activations are to be. SpecError if unknown."""
    import open_clip

    found = open_clip.get_pretrained_cfg(model, tag)
    if not found:
        raise unknown(f"weights of {model}", tag, open_clip.list_pretrained_tags_by_model(model))
    return found


def weights(model: str, tag: str, sha256: str) -> Path:
    """The local file with the weights of a tag. StoreError if it cannot be fetched, DataError if it is another file."""
    folder = settings().home / "assets" / "clip"
    for ending in ENDINGS:
        path = folder / f"{sha256}{ending}"
        if path.exists():
            if hash_file(path) != sha256:
                raise DataError(f"{path} is not the file its name says: remove it to fetch it again.")
            return path
    return _fetched(model, tag, sha256, folder)


def _fetched(model: str, tag: str, sha256: str, folder: Path) -> Path:
    import open_clip

    entry = pretrained(model, tag)
    with scratch() as cache:
        try:
            found = Path(open_clip.download_pretrained(entry, cache_dir=str(cache)))
        except Exception as problem:  # of the hub's client, of urllib, of the network
            raise StoreError(
                f"Cannot fetch the weights {tag!r} of {model} ({problem}): put the file with sha256 {sha256} at "
                f"{folder / sha256} with its ending (.pt, .bin or .safetensors)."
            ) from problem
        real = found.resolve()
        if (given := hash_file(real)) != sha256:
            raise DataError(f"The weights {tag!r} of {model} have sha256 {given} and should have {sha256}.")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{sha256}{found.suffix if found.suffix in ENDINGS else '.pt'}"
        part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(real, part)
        os.replace(part, target)
    return target
