"""Reports on the uid lists in a selection: how many uids are listed, in the pool, and arrived; and handles a list that is the
only filter.

All files are sorted, so each is read once and memory is bounded by a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from datacomp_core import shards as sharding
from datacomp_core import uid, uid_lists
from datacomp_core.external_files import place_of
from datacomp_core.filters import Filter, NotOf
from datacomp_core.filters.listed import TABLE, Listed
from datacomp_core.selection.filter_evaluator import FilterNode, walk
from datacomp_core.selection.report import ListAccount
from datacomp_core.sorted_runs import merge, open_header
from datacomp_core.store import Folder
from datacomp_core.subset_files import SubsetFile, slices

EXAMPLES = 10
ARRIVED = "arrived.npy"


def lists_of(root: FilterNode) -> list[tuple[str, Listed]]:
    """The lists of a filter tree and their paths."""
    return [(placed.path, placed.filter) for placed in walk(root) if isinstance(placed.filter, Listed)]


def list_table(asked: Filter, folder: Path) -> Path | None:
    """The prepared table of a list, in its folder; None if the filter is not a list."""
    return folder / TABLE if isinstance(asked, Listed) else None


def excluded(root: FilterNode) -> frozenset[str]:
    """The paths of the lists whose uids are dropped: those below a `not`."""
    below = [placed for placed in walk(root) if isinstance(placed.filter, NotOf)]
    return frozenset(path for path, _ in lists_of(root) if sum(path.startswith(f"{one.path}.") for one in below) % 2)


def accounts(
    root: FilterNode, tables: Path, found: Callable[[str], Sequence[Path]], local: Path, shards: Folder | None
) -> list[ListAccount]:
    """One account a list. `found`: for the path of a list the runs of those of its uids that each part has."""
    made: list[ListAccount] = []
    dropped = excluded(root)
    there = _arrived(shards, local) if shards is not None and lists_of(root) else None
    for path, asked in lists_of(root):
        merge(found(path), found_file(local, path))
        table, pool = _file(tables / path / TABLE), _file(found_file(local, path))
        account = _account(place_of(asked.uids), table, pool, there)
        made.append(account.model_copy(update={"excluded": path in dropped}))
    return made


def found_file(local: Path, path: str) -> Path:
    """Where `accounts` leaves the pool's uids that are on the list at `path`, sorted."""
    return local / f"found.{path}.npy"


def _account(name: str, table: SubsetFile, pool: SubsetFile, arrived: SubsetFile | None) -> ListAccount:
    listed = unique = in_pool = came = 0
    examples: list[str] = []
    for uids, times in slices([table, pool, *([arrived] if arrived else [])]):
        mine = times[0] > 0
        both = mine & (times[1] > 0)
        listed, unique, in_pool = listed + int(times[0].sum()), unique + int(mine.sum()), in_pool + int(both.sum())
        came += int((both & (times[2] > 0)).sum()) if arrived else 0
        if len(examples) < EXAMPLES:
            examples += uid.unpack(uids[mine & ~both][: EXAMPLES - len(examples)]).to_list()
    return ListAccount(
        uids=name,
        listed=listed,
        unique=unique,
        in_pool=in_pool,
        not_in_pool=unique - in_pool,
        examples=examples,
        arrived=came if arrived else None,
    )


def repeated(chosen: Path, table: Path, target: Path) -> tuple[int, int]:
    """Write the listed uids that were chosen, as often as they are listed: `(rows, distinct uids)`."""
    both = [_file(table), _file(chosen)]
    total = unique = 0
    with target.open("wb") as file:
        open_header(file, 0)
        for uids, times in slices(both):
            taken = np.where(times[1] > 0, times[0], 0)
            total, unique = total + int(taken.sum()), unique + int(np.count_nonzero(taken))
            file.write(np.repeat(uids.view("V16"), taken).data)
        file.seek(0)
        open_header(file, total)  # numpy leaves room for the number of rows, so that the header keeps its length
    return total, unique


def _arrived(shards: Folder, local: Path) -> SubsetFile:
    """The uids of a folder's indexed shards, as a sorted file."""

    def pieces() -> Iterator[uid.Uids]:
        for shard in sharding.index_names(shards):
            yield uid.pack(sharding.read_index(shards, shard)["uid"].drop_nulls().cast(pl.String))

    uid_lists.sort_to(pieces(), local / ARRIVED)
    return _file(local / ARRIVED)


def _file(path: Path) -> SubsetFile:
    return SubsetFile(Folder(path.parent), path.name)
