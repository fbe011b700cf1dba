"""Run the reference's own filters on `dirty_metadata` and keep the uid files they make.

    python tests/parity/freeze_filters.py CHECKOUT_OF_MLFOUNDATIONS_DATACOMP [NAME ...]

Run by hand, with `nltk` (3.10, its `wordnet` data in NLTK_DATA), `cld3-py` and `fasttext-numpy2` on PYTHONPATH. Where the
reference asks for its fastText model, it is given the quantized one that a package ships, because that is the one tests have. Its
image_based wants a GPU and processes of its own: here its code runs on the CPU, in this process, with nothing else changed.
"""

from __future__ import annotations

import inspect
import json
import queue
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import dirty_metadata
import image_embeddings
import numpy as np
import polars as pl

from datacomp_core.assets import asset

FROZEN = Path(__file__).parent / "filters"


def cases(reference: Any) -> dict[str, Callable[[str], Any]]:
    """One a frozen file: a run of the reference over a metadata folder."""

    def clip(arch: str, threshold: float | None, fraction: float | None) -> Callable[[str], Any]:
        return lambda folder: reference.load_uids_with_clip_score(folder, arch, threshold, fraction, 1)

    def image(**options: Any) -> Callable[[str], Any]:
        return lambda folder: reference.load_uids_with_image_filter(folder, "small", 1, 64, num_workers=1, **options)

    return {
        "image_based": image(),
        "image_based_intersect_clip_score-l14-fraction0.3": image(arch="l14", fraction=0.3),
        "image_based_intersect_clip_score-b32-threshold0.25": image(arch="b32", threshold=0.25),
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


class Here:
    """In the place of `multiprocessing`: a process that is over when it has started."""

    Queue = queue.Queue

    class Process:
        def __init__(self, target: Callable[..., None], kwargs: dict[str, Any]) -> None:
            self.start = lambda: target(**kwargs)

        def is_alive(self) -> bool:
            return False

        def join(self, timeout: float) -> None: ...


def on_the_cpu(reference: Any, folder: Path) -> dict[str, str]:
    """Let image_based run here; the files that it asks for, written to a folder."""
    import torch

    source = inspect.getsource(reference.get_centroid_ids_gpu)
    exec(source.replace('f"cuda:{device}"', '"cpu"'), vars(reference))
    reference.mp = Here
    load = torch.load
    torch.load = lambda path: load(path, weights_only=False)  # as it was when the reference was written
    files = {"small_centroids": folder / "centroids.pt"}
    torch.save(image_embeddings.centroids(), files["small_centroids"], pickle_protocol=4)
    for number in range(5):
        files[f"in1k_clip_vit_l14_{number}"] = folder / f"{number}.pt"
        torch.save({"image_features": torch.from_numpy(image_embeddings.target(number))}, folder / f"{number}.pt")
    return {name: str(path) for name, path in files.items()}


def main(checkout: str, *only: str) -> None:
    sys.path.insert(0, checkout)
    import baselines.apply_filter as reference  # pyright: ignore

    classes = resources.files("timm") / "data" / "_info" / "imagenet21k_goog_synsets.txt"  # the same file, by its sha256
    files = {"fasttext": str(asset("lid.176.ftz")), "imagenet21k_wordnet_ids": str(classes)}
    reference.download = lambda name, root=None: files[name]  # type: ignore[attr-defined]
    FROZEN.mkdir(exist_ok=True)
    vectors = tempfile.TemporaryDirectory()
    files |= on_the_cpu(reference, Path(vectors.name))
    for precision, dtype in (("float32", pl.Float32), ("float64", pl.Float64)):
        with tempfile.TemporaryDirectory() as folder:
            inputs = dirty_metadata.write(Path(folder), dtype=dtype)
            embeddings = image_embeddings.write(Path(folder))
            for name, run in cases(reference).items():
                if only and not name.startswith(only):
                    continue
                uids = run(folder)
                uids.sort()
                np.save(FROZEN / f"{precision}-{name}.npy", uids)
    (FROZEN / "inputs.json").write_text(json.dumps({"sha256": inputs, "embeddings": embeddings}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
