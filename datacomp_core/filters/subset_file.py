"""From runs of uids, one a part, to one subset file, in bounded memory: npy of dtype `u8,u8`, sorted, repeats kept.

What fits one slice is sorted as a whole. Of more, the runs have to be sorted; they are cut at the same values of the high word,
and one slice after the other is sorted and appended. The bytes are those of the reference's `np.save` of the sorted whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datacomp_core import uid

SLICE_ROWS = 1 << 22


def write_run(path: Path, packed: uid.Uids) -> None:
    """A part's chosen uids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, packed, allow_pickle=False)


def merge(runs: Sequence[Path], target: Path, slice_rows: int = SLICE_ROWS) -> tuple[int, int]:
    """Write all runs as one subset file. `(rows, distinct uids)`."""
    mapped: list[Any] = [np.load(path, mmap_mode="r") for path in runs]
    total = sum(len(run) for run in mapped)
    num_slices = max(1, -(-total // slice_rows))
    if num_slices > 1:
        mapped = [run if uid.is_sorted(run) else _sort_run(path) for path, run in zip(runs, mapped, strict=True)]
    edges = [2**64 * number // num_slices for number in range(1, num_slices)]
    places = [[0, *np.searchsorted(run["f0"], np.array(edges, np.uint64)).tolist(), len(run)] for run in mapped]
    num_unique, last = 0, None
    with target.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(uid.DTYPE), "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(num_slices):
            slices = [run[place[number] : place[number + 1]] for run, place in zip(mapped, places, strict=True)]
            some = uid.sort(np.concatenate([np.empty(0, uid.DTYPE), *slices]))
            if len(some):
                num_unique += uid.num_unique(some) - int(last is not None and some[0] == last)
                last = some[-1]
                file.write(some.view(np.uint8).data)
    return total, num_unique


def _sort_run(path: Path) -> uid.Uids:
    write_run(path, uid.sort(np.load(path)))
    return np.load(path, mmap_mode="r")
