"""Reads byte ranges of many input shards in the order of the input, neighbours together, in bounded memory. On a disk, ranges
are joined if the gap between them is smaller than the cost of a call. In a bucket every request costs, so the smallest gaps are
read too, as long as they sum to at most a given share of the requested bytes: the fewest requests for that price.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.resharding.plan import Positions, Rows
from datacomp_core.store.folder import Folder
from datacomp_core.tar import BLOCK

GAP = 4 << 10  # of a local file: bytes read in vain rather than asking twice
WINDOW = 32 << 20  # bytes of one round of requests, and of samples that are renamed together


class InputTar(NamedTuple):
    """An input shard; `members` is of `MemberNames.text`."""

    folder: Folder
    name: str
    members: str = ""

    @property
    def file(self) -> str:
        return f"{self.name}.tar"


class ByteRun(NamedTuple):
    """Neighbouring ranges of one tar (a position in the list of tars), read at once: bytes `start` to `stop`."""

    tar: int
    start: int
    stop: int


class SampleBatch(NamedTuple):
    """`blocks`, shape (b, 512), hold the samples of `rows` (positions), each from block `begins` on. They may be changed."""

    rows: Positions
    begins: Positions
    blocks: npt.NDArray[np.uint8]


def in_order(rows: Rows) -> Positions:
    """Positions of the rows in the order of the input; copies of one sample follow each other."""
    return np.lexsort((rows["copy"], rows["offset"], rows["shard"]))


def joined(rows: Rows, *, remote: bool, overread: float, window: int) -> npt.NDArray[np.bool_]:
    """For rows in the order of the input: whether each is read together with the one before it, shape (n,)."""
    start, end = rows["offset"], rows["offset"] + rows["length"]
    gap = start[1:] - end[:-1]
    near = (rows["shard"][1:] == rows["shard"][:-1]) & (start[1:] // window == start[:-1] // window)
    if remote:
        some = np.flatnonzero(near & (gap > 0))
        by_size = some[np.argsort(gap[some], kind="stable")]
        cheap = by_size[np.cumsum(gap[by_size]) <= overread * int(rows["length"].sum())]
        worth = gap <= 0
        worth[cheap] = True
    else:
        worth = gap <= GAP
    return np.concatenate(([False], near & worth))


def read(rows: Rows, tars: Sequence[InputTar], *, overread: float) -> Iterator[SampleBatch]:
    """All rows, batch by batch; a batch holds until the next is asked for. DataError if a tar is missing or too short."""
    turns = in_order(rows)
    ordered = rows[turns]
    remote = not all(tar.folder.is_local for tar in tars)
    if np.any(ordered["offset"] % BLOCK) or np.any(ordered["length"] % BLOCK):
        raise DataError(f"The index of {tars[0].folder} has byte ranges that are not valid in a tar: index its shards again.")
    first = np.flatnonzero(~joined(ordered, remote=remote, overread=overread, window=WINDOW))
    start = ordered["offset"][first]
    stop = np.maximum.reduceat(ordered["offset"] + ordered["length"], first)
    size = stop - start
    place = np.cumsum(size) - size  # of each run, were all of them in one buffer
    batch_of_run = place // WINDOW
    cuts = np.flatnonzero(np.concatenate(([True], batch_of_run[1:] != batch_of_run[:-1])))
    tar = ordered["shard"][first]
    with closing(_Reader(tars, remote=remote)) as reader:
        for low, high in zip(cuts, [*cuts[1:], len(first)], strict=True):
            runs = [ByteRun(*run) for run in zip(*(values[low:high].tolist() for values in (tar, start, stop)), strict=True)]
            mine = slice(first[low], first[high] if high < len(first) else len(rows))
            run_of_row = np.searchsorted(first[low:high], np.arange(mine.start, mine.stop), "right") - 1
            begins = (place[low:high] - place[low] - start[low:high])[run_of_row] + ordered["offset"][mine]
            yield SampleBatch(turns[mine], begins // BLOCK, reader(runs).reshape(-1, BLOCK))


class _Reader:
    """Runs into one buffer that grows to the largest batch; of a local folder one file is open at a time."""

    def __init__(self, tars: Sequence[InputTar], *, remote: bool) -> None:
        self.tars, self.remote = tars, remote
        self.buffer = np.empty(0, np.uint8)
        self.current, self.file = -1, -1

    def __call__(self, runs: list[ByteRun]) -> npt.NDArray[np.uint8]:
        total = sum(run.stop - run.start for run in runs)
        if total > len(self.buffer):
            self.buffer = np.empty(total, np.uint8)
        self._remote(runs) if self.remote else self._local(runs)
        return self.buffer[:total]

    def _local(self, runs: list[ByteRun]) -> None:
        view, at = self.buffer.data, 0
        for run in runs:
            if run.tar != self.current:
                self.close()
                tar = self.tars[run.tar]
                with tar.folder.open(tar.file) as file:
                    self.file, self.current = os.dup(file.fileno()), run.tar
            size = run.stop - run.start
            if os.preadv(self.file, [view[at : at + size]], run.start) != size:
                raise _too_short(self.tars[run.tar], run)
            at += size

    def _remote(self, runs: list[ByteRun]) -> None:
        """Local and remote tars may be mixed: each folder is asked for its part of the batch at once."""
        places = np.cumsum([0, *(run.stop - run.start for run in runs)]).tolist()
        for folder in dict.fromkeys(self.tars[run.tar].folder for run in runs):
            mine = [n for n, run in enumerate(runs) if self.tars[run.tar].folder == folder]
            asked = [(self.tars[runs[n].tar].file, runs[n].start, runs[n].stop) for n in mine]
            for n, data in zip(mine, folder.read_ranges(asked), strict=True):
                self.buffer[places[n] : places[n + 1]] = np.frombuffer(data, np.uint8)

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
        self.file = self.current = -1


def _too_short(tar: InputTar, run: ByteRun) -> DataError:
    return DataError(
        f"Shard {tar.folder.at(tar.file)} does not match its index at bytes {run.start} to {run.stop}: it is "
        "truncated; index it again or download it again."
    )
