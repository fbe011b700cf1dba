"""Keeps the rows whose uid is on a list: a free choice, which the benchmark's rules call an entry. The list, in any form and
order, is sorted on the local disk once per selection. If it is the only filter, its repeats are kept as the participant's
weights; inside other filters it says yes or no.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import AfterValidator, Field

from datacomp_core import external_files, uid, uid_lists
from datacomp_core.errors import DataError
from datacomp_core.filters.base import LookupFilter, register
from datacomp_core.sorted_lookup import is_in_table, prefix_starts
from datacomp_core.store.fingerprint import short_place

TABLE, BEGINS = "list.npy", "begins.npy"
ROWS_AT_ONCE = 1 << 22


def _pinned(name: str) -> str:
    return external_files.pin_place(name, uid_lists.SUFFIXES, "a list of uids")


ListName = Annotated[str, AfterValidator(_pinned)]
"""A file, a folder of files, `s3://`, `https://` or `hf://datasets/OWNER/NAME@REVISION/path`; pinned to its content."""


@register("listed")
class Listed(LookupFilter):
    """Keeps the rows whose uid is on a list."""

    uids: ListName = Field(description="The list: npy, parquet, csv or txt; local, s3://, https:// or hf://datasets/...")

    def columns(self) -> frozenset[str]:
        return frozenset({"uid"})

    def title(self) -> str:
        return f"on the list {self._short()}"

    def reason(self) -> str:
        return f"not on the list {self._short()}"

    def label(self) -> str:
        return f"listed_{self._short().partition('.')[0]}"

    def _short(self) -> str:
        return short_place(self.uids)

    def expected_share(self, num_rows: int) -> float | None:
        """Return the share that a local npy of pairs lists; None for other forms, which are not read here."""
        file = Path(external_files.place_of(self.uids))
        if file.suffix != ".npy" or not file.is_file():
            return None
        try:
            listed = np.load(file, mmap_mode="r", allow_pickle=False)
        except Exception:  # numpy's reader of headers raises a dozen kinds on bad bytes; what reads the list says it
            return None
        return len(listed) / max(num_rows, 1)

    def prepare_table(self, folder: Path) -> None:
        """`list.npy`: the list as a sorted subset file; `begins.npy`: where each prefix begins in it."""
        listed, _ = uid_lists.sort_to(uid_lists.read(external_files.local(self.uids, uid_lists.SUFFIXES)), folder / TABLE)
        if not listed:
            raise DataError(f"{external_files.place_of(self.uids)} contains no uids: give a list with at least one.")
        np.save(folder / BEGINS, prefix_starts(_mapped(folder / TABLE)), allow_pickle=False)

    def look_up(self, rows: pl.DataFrame, folder: Path) -> pl.Series:
        return pl.Series(np.concatenate([np.empty(0, np.bool_), *self._found(rows["uid"], folder)]))

    def _found(self, uids: pl.Series, folder: Path) -> Iterator[npt.NDArray[np.bool_]]:
        table, begins = _mapped(folder / TABLE), _mapped(folder / BEGINS)
        for begin in range(0, len(uids), ROWS_AT_ONCE):
            yield is_in_table(uid.pack(uids[begin : begin + ROWS_AT_ONCE]), table, begins)


def _mapped(path: Path) -> npt.NDArray[Any]:
    """As a plain array, since each look at a part of a `memmap` makes an object that costs more than a plain one."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
