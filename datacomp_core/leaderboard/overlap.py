"""How far two subsets overlap, as sets and as multisets, streamed side by side: memory does not grow with the subsets.

Both files are sorted, so one pass takes equal ranges of uids from each; repeats are counted, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import DataError
from datacomp_core.store import Folder
from datacomp_core.uid import DTYPE, Uids, unpack

SUBSET = "subset.npy"
CHUNK = 1 << 22
MAX_EXAMPLES = 200


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


def overlap(first: Folder, second: Folder, *, chunk: int = CHUNK) -> Overlap:
    """Compare `subset.npy` of two folders. DataError if one is not a subset file."""
    total, unique, largest = [0, 0], [0, 0], [0, 0]
    shared, shared_repeats = 0, 0
    only: tuple[list[str], list[str]] = ([], [])
    with first.open(SUBSET) as a, second.open(SUBSET) as b:
        for pair in _ranges(_Rows(a, first, chunk), _Rows(b, second, chunk)):
            counted = [_counted(rows) for rows in pair]
            for side in (0, 1):
                total[side] += len(pair[side])
                unique[side] += len(counted[side])
                largest[side] = max(largest[side], int(counted[side]["n"].max() or 0))  # pyright: ignore[reportArgumentType]
                if len(only[side]) < MAX_EXAMPLES:
                    lacking = counted[side].join(counted[1 - side], on=["f0", "f1"], how="anti").sort("f0", "f1")
                    only[side].extend(_uids(lacking.head(MAX_EXAMPLES - len(only[side]))))
            both = counted[0].join(counted[1], on=["f0", "f1"])
            shared += len(both)
            shared_repeats += int(both.select(pl.min_horizontal("n", "n_right").sum()).item())
    return Overlap(
        total=(total[0], total[1]),
        unique=(unique[0], unique[1]),
        shared=shared,
        shared_repeats=shared_repeats,
        largest=(largest[0], largest[1]),
        only_first=only[0],
        only_second=only[1],
    )


def _counted(rows: Uids) -> pl.DataFrame:
    frame = pl.DataFrame({"f0": np.ascontiguousarray(rows["f0"]), "f1": np.ascontiguousarray(rows["f1"])})
    return frame.group_by("f0", "f1").len("n")


def _uids(frame: pl.DataFrame) -> list[str]:
    packed = np.empty(len(frame), DTYPE)
    packed["f0"], packed["f1"] = frame["f0"].to_numpy(), frame["f1"].to_numpy()
    return unpack(packed).to_list()


class _Rows:
    """The not yet consumed rows of a subset file, read by the chunk."""

    def __init__(self, file: IO[bytes], folder: Folder, chunk: int) -> None:
        self.file, self.chunk = file, chunk
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except (ValueError, EOFError) as problem:
            raise DataError(f"{folder.at(SUBSET)} is not a subset file (npy of dtype u8,u8): {problem}") from problem
        if dtype != DTYPE or len(shape) != 1:
            raise DataError(f"{folder.at(SUBSET)} has dtype {dtype}; a subset file is one of dtype u8,u8.")
        self.left, self.where = int(shape[0]), folder.at(SUBSET)
        self.rows: Uids = np.empty(0, DTYPE)

    def fill(self) -> None:
        """Hold at least two different uids, or all that is left: equal ones must not be torn apart."""
        while self.left and (len(self.rows) == 0 or self.rows[0] == self.rows[-1]):
            wanted = min(self.chunk, self.left)
            data = self.file.read(wanted * DTYPE.itemsize)
            if len(data) != wanted * DTYPE.itemsize:
                raise DataError(f"{self.where} is truncated: select the subset again.")
            self.rows = np.concatenate([self.rows, np.frombuffer(data, DTYPE)])
            self.left -= wanted

    def take(self, before: tuple[int, int] | None) -> Uids:
        """Remove and return all rows, or those before a uid."""
        count = len(self.rows)
        if before is not None:
            high, low = self.rows["f0"], self.rows["f1"]
            count = int(np.count_nonzero((high < before[0]) | ((high == before[0]) & (low < before[1]))))
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


def _ranges(a: _Rows, b: _Rows) -> Iterator[tuple[Uids, Uids]]:
    while True:
        a.fill()
        b.fill()
        lasts = [(int(side.rows[-1]["f0"]), int(side.rows[-1]["f1"])) for side in (a, b) if side.left]
        before = min(lasts, default=None)
        yield a.take(before), b.take(before)
        if before is None:
            return


def rows_below(folder: Folder, high: int | None, *, chunk: int = CHUNK) -> Uids:
    """The rows of `subset.npy` whose first half lies below `high`, repeats included; all of them without `high`."""
    taken: list[Uids] = [np.empty(0, DTYPE)]
    with folder.open(SUBSET) as file:
        rows = _Rows(file, folder, chunk)
        while rows.left:
            rows.fill()
            reached = high is not None and len(rows.rows) > 0 and int(rows.rows[-1]["f0"]) >= high
            taken.append(rows.take(None if high is None else (high, 0)))
            if reached:
                break
    return np.concatenate(taken)
