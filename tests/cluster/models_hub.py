"""A hub with two small random models that write captions: `python models_hub.py HOST PORT`."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import small_writers
from hub_server import LocalHub, serving

from datacomp_core.captioners.hub_models import weights_hash

FAMILIES = ("blip", "t5")


class SmallModel(NamedTuple):
    files: dict[str, bytes]
    revision: str
    sha256: str


def small_model(family: str) -> SmallModel:
    """The same bytes on every machine."""
    with tempfile.TemporaryDirectory() as folder:
        small_writers.save(family, Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        sha256 = weights_hash(Path(folder))
    hub = LocalHub()
    hub.repositories[f"models/small/{family}"] = files
    return SmallModel(files, hub.commit(f"models/small/{family}"), sha256)


if __name__ == "__main__":
    with serving(sys.argv[1], int(sys.argv[2])) as here:
        for name in FAMILIES:
            here.repositories[f"models/small/{name}"] = small_model(name).files
        threading.Event().wait()
