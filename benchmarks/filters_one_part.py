"""What a filter costs a worker: CPU seconds on one part, in one process, the reference's function for a part and ours.

    python benchmarks/filters_one_part.py --reference CHECKOUT_OF_MLFOUNDATIONS_DATACOMP

Nothing is started or imported while the clock runs and CPU seconds hardly depend on who else uses the machine, so this can be
measured in a minute or two where `benchmarks/filters.py` takes an hour. Left out in the reference's favour: its search for a
threshold and its collecting of uids from workers; ours does all of these. `nltk` (with its `wordnet` data) and `cld3-py` have to
be importable.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import polars as pl
from filters import patched, write_pool

from datacomp_core.assets import asset
from datacomp_core.filters.select import load_recipe, select
from datacomp_core.store import Folder

ROWS = {"no_filter": 1_000_000, "clip_score_l14": 1_000_000, "basic_filter": 60_000, "laion2b": 60_000, "text_based": 8_000}
"""As many as make a measurement of seconds for either program."""
L14, B32 = "clip_l14_similarity_score", "clip_b32_similarity_score"


def reference(code: Any, name: str, part: str, out: str) -> Callable[[], int]:
    """The reference's work on one part, then its sorting and writing."""
    fsspec = importlib.import_module("fsspec")
    place = (fsspec.filesystem("file"), part)  # what its functions for a part take
    column = pl.read_parquet(part, columns=[L14])[L14].sort(descending=True)
    entities = [int(line.strip()[1:]) for line in asset("imagenet21k_wordnet_ids.txt").read_text().splitlines()]
    work: dict[str, Callable[[], Any]] = {
        "no_filter": lambda: code.load_uids_helper(place),
        "clip_score_l14": lambda: code.load_uids_with_clip_score_helper(place, L14, column[int(len(column) * 0.3)], False),
        "basic_filter": lambda: code.load_uids_with_basic_filter_helper(place),
        "laion2b": lambda: code.load_uids_with_clip_score_helper(place, B32, 0.28, True),
        "text_based": lambda: code.load_uids_with_text_entity_helper(place, entities),
    }

    def written() -> int:
        uids = work[name]()
        uids.sort()
        np.save(Path(out) / "theirs.npy", uids)
        return len(uids)

    return written


def ours(name: str, folder: str, out: str) -> int:
    """A whole selection, from the folder to the subset file."""
    return select(load_recipe(name), Folder(folder), out=Folder(out), write="subset", workers=1).num_samples


def floor(part: str) -> int:
    """fastText alone over a part's captions."""
    predict = fasttext.load_model(str(asset("lid.176.ftz"))).predict
    texts = pl.read_parquet(part, columns=["text"])["text"].str.replace_all("\n", " ")
    return sum(predict(text)[0] == ("__label__en",) for text in texts)


def cpu(work: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds of this process, its threads and its children."""
    began = sum(os.times()[:4])
    found = work()
    return max(sum(os.times()[:4]) - began, 0.01), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="A checkout of mlfoundations/datacomp.")
    parser.add_argument("--filters", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        sys.path.insert(0, patched(options.reference, Path(root) / "reference"))
        code = importlib.import_module("baselines.apply_filter")
        for name in options.filters:
            folder = Path(root, name, "metadata")
            folder.mkdir(parents=True)
            write_pool(folder, 100, 100)
            part = str(next(folder.glob("*.parquet")))
            for warm_up in (reference(code, name, part, root), lambda name=name, folder=folder: ours(name, str(folder), root)):
                warm_up()  # models and word lists are in memory from here on
            write_pool(folder, ROWS[name], ROWS[name])
            theirs, mine = [], []
            for _ in range(options.rounds):
                theirs.append(cpu(reference(code, name, part, root)))
                mine.append(cpu(lambda name=name, folder=folder: ours(name, str(folder), root)))
                assert theirs[-1][1] == mine[-1][1], (name, theirs[-1][1], mine[-1][1])
            least, most = min(mine)[0], min(seconds for seconds, _ in theirs)
            line = f"{name:16}{ROWS[name]:>9,} rows{least:9.2f} s ours{most:9.2f} s reference{most / least:9.1f} x"
            print(line, f"  {time.strftime('%H:%M:%S')}  load {os.getloadavg()[0]:.1f}", flush=True)
            if name == "basic_filter":
                print(f"{'fastText alone':16}{ROWS[name]:>9,} rows{cpu(lambda part=part: floor(part))[0]:9.2f} s", flush=True)


if __name__ == "__main__":
    main()
