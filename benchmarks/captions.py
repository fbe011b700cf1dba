"""What the import of captions costs, and a policy over them: rows a second, bytes, peak memory.

`python benchmarks/captions.py --rows 12800000` makes a pool and a table of as many captions in files without order (a share of
the uids twice, some of no pool), joins them by uid, and applies `first_of: [generated, raw]`. Each stage runs in a process of its
own, whose peak is told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PART_ROWS = 500_000
WORDS = np.array(["a", "photo", "of", "the", "small", "red", "blue", "dog", "beach", "city", "with", "green", "tree", "night"])


def texts(chance: np.random.Generator, rows: int) -> pl.Series:
    """Captions of twelve words, about 55 characters."""
    drawn = WORDS[chance.integers(0, len(WORDS), (rows, 12))]
    return pl.DataFrame(drawn).select(pl.concat_str(pl.all(), separator=" ").alias("text"))["text"]


def uids(numbers: np.ndarray[Any, Any]) -> pl.Series:
    """32 hex digits for each number."""
    mixed = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).tobytes().hex()
    return pl.Series([mixed[at : at + 16] * 2 for at in range(0, len(mixed), 16)])


def make(folder: Path, rows: int, form: str) -> None:
    """Metadata in order, and the table in three files: rows in random order, a tenth unknown."""
    chance = np.random.default_rng(0)
    (folder / "metadata").mkdir(parents=True)
    (folder / "table").mkdir()
    for start in range(0, rows, PART_ROWS):
        numbers = np.arange(start, min(rows, start + PART_ROWS))
        table = pl.DataFrame({"uid": uids(numbers), "text": texts(chance, len(numbers))})
        table.write_parquet(folder / f"metadata/{start // PART_ROWS:08d}.parquet")
    for number in range(3):
        for piece, start in enumerate(range(0, rows // 3, PART_ROWS)):
            size = min(PART_ROWS, rows // 3 - start)
            table = pl.DataFrame({"text": texts(chance, size), "uid": uids(chance.integers(0, rows + rows // 10, size))})
            path = folder / f"table/{number}-{piece:03d}.{form}"
            table.write_parquet(path) if form == "parquet" else table.write_csv(path)


def import_(folder: Path) -> None:
    from datacomp_core.caption_sets import SUMMARY, summary
    from datacomp_core.captions.import_captions import CaptionImportSpec, import_folder_captions
    from datacomp_core.store import Folder

    spec = CaptionImportSpec(file=str(folder / "table"), name="generated")
    out = Folder(folder / "captions")
    out.write_json(SUMMARY, summary(import_folder_captions(spec, Folder(folder / "metadata"), out)))


def apply(folder: Path) -> None:
    from datacomp_core.caption_policy import CaptionPolicy
    from datacomp_core.caption_sets import set_in
    from datacomp_core.captions.choose_captions import PolicyInputs, choose_folder
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.store import Folder

    own = Folder(folder / "captions")
    policy = CaptionPolicy.model_validate({"first_of": ["generated", "raw"]})
    choose_folder(PolicyInputs(policy, PoolSource(Folder(folder / "metadata")), ((set_in(own), own),)), Folder(folder / "chosen"))


def _told(work: Callable[[Path], None], folder: Path, found: Any) -> None:
    import datacomp_core.captions.choose_captions
    import datacomp_core.captions.import_captions  # noqa: F401 # what is loaded anyway is no cost of the rows

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    work(folder)
    found.put((time.monotonic() - began, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--form", choices=("parquet", "csv"), default="parquet")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pool"
        make(folder, given.rows, given.form)
        print(f"{given.rows:,} rows of metadata, {given.form} table of {bytes_of(folder / 'table') / 1e6:,.0f} MB")
        print(f"{'stage':<8} {'seconds':>8} {'rows/s':>10} {'MB out':>8} {'MiB before':>11} {'peak MiB':>9}")
        context = multiprocessing.get_context("spawn")
        for name, work, out in (("import", import_, "captions"), ("apply", apply, "chosen")):
            found: Any = context.Queue()
            process = context.Process(target=_told, args=(work, folder, found))
            process.start()
            process.join()
            seconds, before, peak = found.get()
            size = bytes_of(folder / out) / 1e6
            print(
                f"{name:<8} {seconds:>8.1f} {given.rows / seconds:>10,.0f} {size:>8,.0f} {before:>11,.0f} {peak:>9,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
