"""Run the reference's own filters on `dirty_metadata` and keep the uid files they make.

    python tests/parity/freeze_filters.py CHECKOUT_OF_MLFOUNDATIONS_DATACOMP

Run by hand, with `nltk` (3.10, its `wordnet` data in NLTK_DATA) and `cld3-py` on PYTHONPATH. The reference is not changed: where
it asks for its fastText model, it is given the quantized one that a package ships, because that is the one tests have.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import dirty_metadata
import numpy as np
import polars as pl

from datacomp_core.assets import asset

FROZEN = Path(__file__).parent / "filters"


def cases(reference: Any) -> dict[str, Callable[[str], Any]]:
    """One a frozen file: a run of the reference over a metadata folder."""

    def clip(arch: str, threshold: float | None, fraction: float | None) -> Callable[[str], Any]:
        return lambda folder: reference.load_uids_with_clip_score(folder, arch, threshold, fraction, 1)

    return {
        "no_filter": lambda folder: reference.load_uids(folder, 1),
        "basic_filter": lambda folder: reference.load_uids_with_basic_filter(folder, 1),
        "text_based": lambda folder: reference.load_uids_with_text_entity(folder, 1),
        "laion2b": lambda folder: reference.load_uids_with_clip_score(folder, "b32", 0.28, None, 1, gcld3_en_filter=True),
        "clip_score-b32-fraction0.3": clip("b32", None, 0.3),
        "clip_score-b32-fraction0.05": clip("b32", None, 0.05),
        "clip_score-l14-fraction0.3": clip("l14", None, 0.3),
        "clip_score-l14-fraction0.0001": clip("l14", None, 0.0001),
        "clip_score-l14-fraction0.99": clip("l14", None, 0.99),
        "clip_score-b32-threshold0.28": clip("b32", 0.28, None),
        "clip_score-b32-threshold0.3": clip("b32", 0.3, None),
        "clip_score-l14-threshold0.243": clip("l14", 0.243, None),
    }


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    import baselines.apply_filter as reference  # pyright: ignore

    classes = resources.files("timm") / "data" / "_info" / "imagenet21k_goog_synsets.txt"  # the same file, by its sha256
    files = {"fasttext": str(asset("lid.176.ftz")), "imagenet21k_wordnet_ids": str(classes)}
    reference.download = lambda name, root=None: files[name]  # type: ignore[attr-defined]
    FROZEN.mkdir(exist_ok=True)
    for precision, dtype in (("float32", pl.Float32), ("float64", pl.Float64)):
        with tempfile.TemporaryDirectory() as folder:
            inputs = dirty_metadata.write(Path(folder), dtype=dtype)
            for name, run in cases(reference).items():
                uids = run(folder)
                uids.sort()
                np.save(FROZEN / f"{precision}-{name}.npy", uids)
    (FROZEN / "inputs.json").write_text(json.dumps({"sha256": inputs}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
