"""Sorts unsorted subset files in runs on the local disk and merges them, so only one run is in memory. Repeats are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.sorted_runs import merge
from datacomp_core.store import Folder, scratch

RUN_ROWS = 1 << 24


def sort_subset(source: Folder, name: str, out: Path, *, run_rows: int = RUN_ROWS) -> tuple[int, int]:
    """Write the subset file that `name` in `source` should have been; its rows and distinct uids. DataError if it is none."""
    with scratch() as local:
        path = source.path / name if source.is_local else local / "given.npy"
        if not source.is_local:
            with source.open(name) as given, path.open("wb") as file:
                shutil.copyfileobj(given, file, 16 << 20)
        packed = _uids(path, source.at(name))
        runs: list[Path] = []
        for start in range(0, max(len(packed), 1), run_rows):
            runs.append(local / f"run-{start:014d}.npy")
            some = np.ascontiguousarray(packed[start : start + run_rows]).astype(uid.DTYPE, copy=False)
            np.save(runs[-1], uid.sort(some), allow_pickle=False)
        return merge(runs, out)


def _uids(path: Path, where: str) -> uid.Uids:
    """The uids of a file, mapped: structured `u8,u8`, or an array (n, 2) of 64-bit numbers, of either byte order."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as problem:
        raise DataError(f"{where} is not there.") from problem
    except Exception as problem:  # numpy's reader of headers raises a dozen kinds on bad bytes, tokenize's own among them
        raise DataError(uid.no_subset(where, problem)) from problem
    if not isinstance(found, np.ndarray):
        raise DataError(f"{where} is not a subset file (npy of dtype u8,u8) but an archive of arrays.")
    if isinstance(found, np.memmap) and found.offset + found.nbytes < path.stat().st_size:
        raise DataError(f"{where} continues after its {len(found):,} uids: it is damaged, or two files in one; make it again.")
    if found.dtype.newbyteorder("=") == uid.DTYPE and found.ndim == 1:
        return found
    if found.dtype.newbyteorder("=") == np.uint64 and found.ndim == 2 and found.shape[1] == 2 and found.flags.c_contiguous:
        return found.view(np.dtype([("f0", found.dtype), ("f1", found.dtype)])).reshape(-1)
    raise DataError(uid.no_subset_dtype(where, found.dtype, found.shape))
