"""Set operations on subset files, as multisets: a uid's multiplicity is how often it stands there. Streaming, in bounded memory.

Files are sorted, so all are cut at the same uids and one slice after the other is combined; what comes out is a subset file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core import uid
from datacomp_core.errors import SpecError

SLICE_ROWS = 1 << 22
Operation = Literal["union", "intersection", "difference", "sum"]
Counts = npt.NDArray[np.int64]
OPERATIONS: dict[str, Callable[[Counts], Counts]] = {
    "union": lambda times: times.max(0),
    "intersection": lambda times: times.min(0),
    "difference": lambda times: np.maximum(times[0] - times[1:].sum(0), 0),
    "sum": lambda times: times.sum(0),
}
"""Multiplicities (files, uids) to the multiplicity that comes out, (uids,): the larger, the smaller, what is left, all."""


class Compared(BaseModel):
    """Two subsets, as sets (`unique`, `shared`, `jaccard`) and as multisets (`total`, `shared_repeats`, `weighted_jaccard`)."""

    model_config = ConfigDict(frozen=True)
    total: tuple[int, int] = Field(description="Rows, repeats included.")
    unique: tuple[int, int] = Field(description="Distinct uids.")
    shared: int = Field(description="Distinct uids in both.")
    shared_repeats: int = Field(description="The smaller multiplicity of each uid, summed.")
    jaccard: float
    weighted_jaccard: float


def combine(
    operation: Operation, files: Sequence[Path], target: Path, *, as_sets: bool = False, rows: int = SLICE_ROWS
) -> tuple[int, int]:
    """Write the result of an operation as a subset file: `(rows, distinct uids)`. `as_sets`: every multiplicity counts as 1."""
    if len(files) < 2:
        raise SpecError(f"A {operation} is one of two subset files or more.")
    total = unique = 0
    for _, times in slices(files, rows, as_sets=as_sets):  # the header says how many rows follow
        total += int(OPERATIONS[operation](times).sum())
    with target.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(uid.DTYPE), "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
        for uids, times in slices(files, rows, as_sets=as_sets):
            out = OPERATIONS[operation](times)
            unique += int(np.count_nonzero(out))
            file.write(np.repeat(uids, out).tobytes())
    return total, unique


def compare(first: Path, second: Path, *, rows: int = SLICE_ROWS) -> Compared:
    """How far two subset files agree."""
    total, unique = np.zeros(2, np.int64), np.zeros(2, np.int64)
    shared = repeats = 0
    for _, times in slices([first, second], rows):
        total += times.sum(1)
        unique += np.count_nonzero(times, axis=1)
        shared += int(np.count_nonzero(times.min(0)))
        repeats += int(times.min(0).sum())
    either, all_rows = int(unique.sum()) - shared, int(total.sum()) - repeats
    return Compared(
        total=(int(total[0]), int(total[1])),
        unique=(int(unique[0]), int(unique[1])),
        shared=shared,
        shared_repeats=repeats,
        jaccard=shared / either if either else 1.0,
        weighted_jaccard=repeats / all_rows if all_rows else 1.0,
    )


def slices(files: Sequence[Path], rows: int, *, as_sets: bool = False) -> Iterator[tuple[uid.Uids, Counts]]:
    """`(uids, times)` in order: the distinct uids (n,) of a slice and how often each file has them, (files, n)."""
    opened = [uid.open_subset(path) for path in files]
    num = max(1, -(-sum(len(subset) for subset in opened) // rows))
    edges = np.array([2**64 * number // num for number in range(1, num)], np.uint64)
    places = [[0, *np.searchsorted(subset["f0"], edges).tolist(), len(subset)] for subset in opened]
    for number in range(num):
        some = [subset[place[number] : place[number + 1]] for subset, place in zip(opened, places, strict=True)]
        whole = np.concatenate([np.asarray(each) for each in some])
        if not len(whole):
            continue
        source = np.repeat(np.arange(len(some)), [len(each) for each in some])
        order = np.lexsort((whole["f1"], whole["f0"]))
        whole, source = whole[order], source[order]
        first = np.concatenate([[True], whole[1:] != whole[:-1]])
        times = np.zeros((len(some), int(first.sum())), np.int64)
        np.add.at(times, (source, np.cumsum(first) - 1), 1)
        yield whole[first], np.minimum(times, 1) if as_sets else times
