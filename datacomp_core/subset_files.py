"""Subset files side by side, as multisets: how far two overlap, and union, intersection, difference and sum of several.

All are sorted, so one pass takes equal ranges of uids from each: memory does not grow with them, and they may be in a bucket.
A uid's multiplicity is how often it stands in a file; it is counted, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder
from datacomp_core.uid import DTYPE, Uids, is_sorted, unpack

SUBSET = "subset.npy"
CHUNK = 1 << 19
"""Rows that are read at once from each file: what stays in a core's cache is merged faster."""
MAX_EXAMPLES = 200
Operation = Literal["union", "intersection", "difference", "sum"]
Counts = npt.NDArray[np.int64]
OPERATIONS: dict[str, Callable[[Counts], Counts]] = {
    "union": lambda times: times.max(0),
    "intersection": lambda times: times.min(0),
    "difference": lambda times: np.maximum(times[0] - times[1:].sum(0), 0),
    "sum": lambda times: times.sum(0),
}
"""Multiplicities (files, uids) to the multiplicity that comes out, (uids,): the larger, the smaller, what is left, all."""


class SubsetFile(NamedTuple):
    """Where one is: local, or in a bucket."""

    folder: Folder
    name: str = SUBSET

    def __str__(self) -> str:
        return self.folder.at(self.name)


class Overlap(BaseModel):
    """Two subsets, A and B. Repeats count in what is called `repeats` or `weighted`, nowhere else."""

    model_config = ConfigDict(frozen=True)
    total: tuple[int, int] = Field(description="Rows of A and B, repeats included.")
    unique: tuple[int, int]
    shared: int = Field(description="Distinct uids in both.")
    shared_repeats: int = Field(description="Rows in both: the smaller multiplicity of each uid, summed.")
    largest: tuple[int, int] = Field(description="The most often repeated uid's multiplicity in A and B.")
    only_first: list[str] = Field(description="Some uids of A that B lacks, in order of uid (which is a hash: no bias).")
    only_second: list[str]

    @property
    def jaccard(self) -> float:
        """Shared of all distinct uids; 1 for two empty subsets."""
        either = sum(self.unique) - self.shared
        return self.shared / either if either else 1.0

    @property
    def weighted_jaccard(self) -> float:
        """The same over multiplicities: sum of the smaller over sum of the larger."""
        either = sum(self.total) - self.shared_repeats
        return self.shared_repeats / either if either else 1.0

    @property
    def containment(self) -> tuple[float, float]:
        """Share of A's distinct uids that are in B, and of B's that are in A; 1 for an empty subset."""
        return tuple(self.shared / n if n else 1.0 for n in self.unique)  # pyright: ignore[reportReturnType]


def overlap(first: SubsetFile, second: SubsetFile, *, chunk: int = CHUNK) -> Overlap:
    """How far two subset files agree. DataError if one is none."""
    total, unique, largest = (np.zeros(2, np.int64) for _ in range(3))
    shared = shared_repeats = 0
    only: tuple[list[str], list[str]] = ([], [])
    for uids, times in slices([first, second], chunk=chunk):
        total += times.sum(1)
        unique += np.count_nonzero(times, axis=1)
        largest = np.maximum(largest, times.max(1))
        shared += int(np.count_nonzero(times.min(0)))
        shared_repeats += int(times.min(0).sum())
        for side, some in enumerate(only):
            if len(some) < MAX_EXAMPLES:
                some.extend(unpack(uids[times[1 - side] == 0][: MAX_EXAMPLES - len(some)]))
    return Overlap(
        total=(int(total[0]), int(total[1])),
        unique=(int(unique[0]), int(unique[1])),
        shared=shared,
        shared_repeats=shared_repeats,
        largest=(int(largest[0]), int(largest[1])),
        only_first=only[0],
        only_second=only[1],
    )


def combine(
    operation: Operation, files: Sequence[SubsetFile], target: Path, *, as_sets: bool = False, chunk: int = CHUNK
) -> tuple[int, int]:
    """Write the result of an operation as a subset file: `(rows, distinct uids)`. `as_sets`: every multiplicity counts as 1."""
    if len(files) < 2:
        raise SpecError(f"A {operation} needs at least two subset files.")
    total = unique = 0
    for _, times in slices(files, chunk=chunk, as_sets=as_sets):  # the header says how many rows follow
        total += int(OPERATIONS[operation](times).sum())
    with target.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(DTYPE), "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
        for uids, times in slices(files, chunk=chunk, as_sets=as_sets):
            out = OPERATIONS[operation](times)
            unique += int(np.count_nonzero(out))
            file.write(np.repeat(uids, out).tobytes())
    return total, unique


def slices(files: Sequence[SubsetFile], *, chunk: int = CHUNK, as_sets: bool = False) -> Iterator[tuple[Uids, Counts]]:
    """`(uids, times)` in order: the distinct uids (n,) of a range and how often each file has them, (files, n)."""
    with ExitStack() as stack:
        readers = [_Rows(stack.enter_context(file.folder.open(file.name)), str(file), chunk) for file in files]
        while True:
            for reader in readers:
                reader.fill()
            before = min(((int(one.rows[-1]["f0"]), int(one.rows[-1]["f1"])) for one in readers if one.left), default=None)
            some = [reader.take(before) for reader in readers]
            if any(map(len, some)):
                uids, times = _counted(some)
                yield uids, np.minimum(times, 1) if as_sets else times
            if before is None:
                return


def _counted(some: Sequence[Uids]) -> tuple[Uids, Counts]:
    """Each is sorted, so they are merged; whole words are compared, as numpy compares pairs twenty times slower."""
    whole = np.concatenate(some)
    order = uid.merge_order(whole)
    whole, source = uid.take(whole, order), np.repeat(np.arange(len(some), dtype=np.int32), [len(each) for each in some])[order]
    high, low = np.ascontiguousarray(whole["f0"]), np.ascontiguousarray(whole["f1"])
    first = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
    starts = np.flatnonzero(first)
    places = np.cumsum(first) + (source * np.int64(len(starts)) - 1)
    return uid.take(whole, starts), np.bincount(places, minlength=len(some) * len(starts)).reshape(len(some), len(starts))


def rows_below(file: SubsetFile, high: int | None, *, chunk: int = CHUNK) -> Uids:
    """The rows whose first half is below `high`, repeats included; all of them without `high`."""
    taken: list[Uids] = [np.empty(0, DTYPE)]
    with file.folder.open(file.name) as source:
        rows = _Rows(source, str(file), chunk)
        while rows.left:
            rows.fill()
            reached = high is not None and len(rows.rows) > 0 and int(rows.rows[-1]["f0"]) >= high
            taken.append(rows.take(None if high is None else (high, 0)))
            if reached:
                break
    return np.concatenate(taken)


class _Rows:
    """The not yet consumed rows of a subset file, read by the chunk."""

    def __init__(self, file: IO[bytes], where: str, chunk: int) -> None:
        self.file, self.where, self.chunk = file, where, chunk
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except (ValueError, EOFError) as problem:
            raise DataError(uid.no_subset(where, problem)) from problem
        if dtype != DTYPE or len(shape) != 1:
            raise DataError(uid.no_subset_dtype(where, dtype, shape))
        self.left = int(shape[0])
        self.rows: Uids = np.empty(0, DTYPE)

    def fill(self) -> None:
        """Hold at least two different uids, or all that is left: equal ones must not be torn apart."""
        while self.left and (len(self.rows) == 0 or self.rows[0] == self.rows[-1]):
            wanted = min(self.chunk, self.left)
            data = self.file.read(wanted * DTYPE.itemsize)
            if len(data) != wanted * DTYPE.itemsize:
                raise DataError(f"{self.where} is truncated: select the subset again.")
            new = np.frombuffer(data, DTYPE)
            behind = len(self.rows) > 0 and self.rows[-1].item() > new[0].item()
            self.rows = np.concatenate([self.rows, new]) if len(self.rows) else new
            self.left -= wanted
            if behind or not is_sorted(new):
                raise DataError(f"{self.where} is not sorted: sort it with `datacomp subset sort FILE --out SORTED`.")

    def take(self, before: tuple[int, int] | None) -> Uids:
        """Remove and return all rows, or those before a uid."""
        count = len(self.rows)
        if before is not None:
            begin, end = (int(np.searchsorted(self.rows["f0"], np.uint64(before[0]), side)) for side in ("left", "right"))
            count = begin + int(np.searchsorted(self.rows["f1"][begin:end], np.uint64(before[1]), "left"))
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken
