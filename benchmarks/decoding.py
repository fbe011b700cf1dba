"""How far do the pixels of another decoding lie from the exact ones? Shares of values by grey levels, for `fast` and `cuda`.

    python benchmarks/decoding.py [--shards FOLDER] [--samples 500] [--device cuda]

For training images, cropped and resized to 224, as the loader makes them; by default of 512-px JPEGs that are made on the spot.
`--device cpu` puts the batches of `cuda` together on the CPU, whose decoder is not the GPU's: it rehearses the code. Prints a
line of JSON for each way: the share of values that differ by 0, 1, 2 and more levels, the largest difference, the mean, and the
share of images whose mean colour moves by more than half a level.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 50


def measured(exact: Any, other: Any, samples: int, device: str) -> dict[str, Any]:
    """Over the same samples and crops."""
    import torch

    from datacomp_core.training.cuda_decoding import decode_on_gpu

    counts, moved, total = np.zeros(256, np.int64), 0, 0
    for number in range(samples // BATCH):
        wanted, found = exact[number].pixels, decode_on_gpu(other[number], torch.device(device)).pixels.cpu()
        apart = found.int() - wanted.int()
        counts += np.bincount(apart.abs().flatten().numpy(), minlength=256)
        moved += int((apart.float().mean(dim=(2, 3)).abs().amax(dim=1) > 0.5).sum())
        total += len(wanted)
    share = counts / counts.sum()
    levels = {str(level): round(float(share[level]), 6) for level in range(3)} | {"more": round(float(share[3:].sum()), 6)}
    largest, mean = int(np.flatnonzero(counts)[-1]), float((share * np.arange(256)).sum())
    return {"levels": levels, "largest": largest, "mean": round(mean, 5), "images_moved": round(moved / total, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=None, help="folder of shards with their index")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", default="", help="of `cuda`; by default a GPU if there is one")
    given = parser.parse_args()
    from loader import batches_of, made_of, make_shards

    from datacomp_core.device import has_cuda
    from datacomp_core.training.cuda_decoding import decoder_name

    device = given.device or ("cuda" if has_cuda() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.shards or Path(scratch)
        if given.shards is None:
            make_shards(folder, 400, 4)
        shards = made_of(folder)
        exact = batches_of(folder, "full", BATCH, shards)
        for decoding in ("fast", "cuda"):
            found = measured(exact, batches_of(folder, decoding, BATCH, shards), given.samples, device)
            by = {"by": decoder_name(device), "device": device} if decoding == "cuda" else {"by": "torch", "device": "cpu"}
            sys.stdout.write(json.dumps({"decoding": decoding, **by, **found}) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
