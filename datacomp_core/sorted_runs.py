"""From sorted runs of uids, one a part, to one subset file, in bounded memory: npy of dtype `u8,u8`, sorted, repeats kept.

The runs are cut at the same values of the high word, and one slice after the other is merged and appended. Slices are small: what
stays in a core's cache is merged faster, and no fresh memory is asked for. Uids need not be random: a slice that holds far more
than its share (uids that count up from 0 have one high word) is cut again at its middle. The bytes are those of
`uid.subset_bytes`, that is of the reference's `np.save` of the sorted whole.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from datacomp_core import uid
from datacomp_core.store.local import temporary_of

SLICE_ROWS = 1 << 18
ROWS_OF_A_RUN = 1 << 7
"""Of one run in a slice, at least: of very many runs smaller pieces would cost more to find than to sort."""

MOST_RUNS = 512
MOST_SHARES = 8
"""Of `slice_rows` that a slice may hold before it is cut again."""


def write_run(path: Path, packed: uid.Uids) -> None:
    """A part's chosen uids, sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, uid.sort(packed), allow_pickle=False)


def open_header(file: IO[bytes], rows: int) -> None:
    """Begin a subset file with this number of rows."""
    header = {"descr": np.lib.format.dtype_to_descr(uid.DTYPE), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)


class OpenRun:
    """A run that is written piece by piece, each of which follows the one before it."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.num_unique = path, 0, 0
        self._last: tuple[int, int] = (0, 0)
        self._file = path.open("wb")
        open_header(self._file, 0)

    def takes(self, some: uid.Uids) -> bool:
        """Return whether these sorted uids follow the existing ones."""
        return not self.rows or not len(some) or self._last <= some[0].item()

    def append(self, some: uid.Uids) -> None:
        """Add sorted uids."""
        if not len(some):
            return
        self.num_unique += uid.num_unique(some) - int(self.rows > 0 and self._last == some[0].item())
        self.rows, self._last = self.rows + len(some), some[-1].item()
        self._file.write(some.view(np.uint8).data)

    def close(self) -> None:
        """Write the number of rows into the header; numpy leaves room for it, so that the header keeps its length."""
        self._file.seek(0)
        open_header(self._file, self.rows)
        self._file.close()


def merge(runs: Iterable[Path], target: Path, slice_rows: int = SLICE_ROWS) -> tuple[int, int]:
    """Write all runs as one subset file. `(rows, distinct uids)`.

    Each run that is read takes a file descriptor, so of more runs than this process may have open some are merged first, in files
    beside `target` which need as much disk as the subset.
    """
    left, own = list(runs), set[Path]()
    most = fan_in()
    try:
        while len(left) > most:
            groups = [left[begin : begin + most] for begin in range(0, len(left), most)]
            left = [_merged_first(group, target, slice_rows, own) for group in groups]
        return _merge(left, target, slice_rows)
    finally:
        for path in own:
            path.unlink(missing_ok=True)


def fan_in() -> int:
    """How many runs are merged at once: half of the files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_RUNS if soft == resource.RLIM_INFINITY else max(2, min(MOST_RUNS, soft // 2))


def _merged_first(group: list[Path], target: Path, slice_rows: int, own: set[Path]) -> Path:
    """One file instead of some runs; those that were made here before are removed. Its name says that it is unfinished."""
    made = temporary_of(target)
    own.add(made)
    _merge(group, made, slice_rows)
    for path in own.intersection(group):
        path.unlink()
        own.remove(path)
    return made


def _merge(runs: Sequence[Path], target: Path, slice_rows: int) -> tuple[int, int]:
    mapped: list[Any] = [np.asarray(np.load(path, mmap_mode="r")) for path in runs]
    total = sum(len(run) for run in mapped)
    num_slices = max(1, -(-total // max(slice_rows, ROWS_OF_A_RUN * len(mapped))))
    begins = [0] * len(mapped)
    num_unique, last = 0, None
    with target.open("wb") as file:
        open_header(file, total)
        for number in range(1, num_slices + 1):
            edge = np.uint64(2**64 * number // num_slices) if number < num_slices else None
            ends = [len(run) if edge is None else int(np.searchsorted(run["f0"], edge)) for run in mapped]
            pieces = [run[begin:end] for run, begin, end in zip(mapped, begins, ends, strict=True)]
            begins = ends
            for some in _merged_slice(pieces, MOST_SHARES * slice_rows):
                num_unique += uid.num_unique(some) - int(last is not None and some[0] == last)
                last = some[-1]
                file.write(some.view(np.uint8).data)
    return total, num_unique


def _merged_slice(pieces: Sequence[uid.Uids], most: int) -> Iterator[uid.Uids]:
    """Sorted pieces as sorted arrays of at most `most` uids, one behind the other; more only of one uid that repeats so often."""
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return
    middle = _middle(pieces)
    if sum(map(len, pieces)) <= most or all(piece[0] == piece[-1] == middle[0] for piece in pieces):
        yield uid.merged(pieces)
        return
    found = [uid.locate(piece, middle) for piece in pieces]
    cuts = [(0, int(first[0]), int(first[0] + times[0]), len(piece)) for (first, times), piece in zip(found, pieces, strict=True)]
    for side in range(3):  # below the middle, equal to it, above it
        yield from _merged_slice([piece[cut[side] : cut[side + 1]] for piece, cut in zip(pieces, cuts, strict=True)], most)


def _middle(pieces: Sequence[uid.Uids]) -> uid.Uids:
    """A uid (1,) with at least a quarter of all on either side of it, itself counted: the weighted median of their medians."""
    medians = np.array([piece[len(piece) // 2] for piece in pieces], uid.DTYPE)
    order = uid.order(medians)
    behind = np.cumsum([len(pieces[place]) for place in order])
    place = order[int(np.searchsorted(behind, behind[-1] / 2))]
    return medians[place : place + 1]
