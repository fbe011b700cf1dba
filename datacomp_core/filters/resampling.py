"""Draws with repeats: filters that decide how often each row kept by another filter is used. Such a filter must be outermost.
It gives a verdict on every row, and the number of draws of the row.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.driver_files import Exchange
from datacomp_core.filters.base import AnyFilter, Filter, GlobalFilter, GlobalView


class ResamplingFilter(GlobalFilter):
    """A global filter that uses a row any number of times. `decide_all` calls `note_copies` for every part."""

    is_outermost: ClassVar[bool] = True
    filter: Annotated[AnyFilter, Field(description="The filter whose rows may be drawn.")]

    def draws_from(self) -> Filter:
        return self.filter


def note_copies(view: GlobalView, part: str, copies: npt.NDArray[np.uint32]) -> None:
    """Write how often each row of a part is drawn, shape (rows,)."""
    view.memory.save(_copies_name(f"{part}/{view.path}.npy"), copies)


def read_copies(memory: Exchange, verdict: str, rows: int) -> npt.NDArray[np.int64]:
    """How often each row of a part is drawn; `verdict` is the name of the part's verdict in the memory."""
    copies = memory.load(_copies_name(verdict)).astype(np.int64)
    assert len(copies) == rows, "copies of another part"
    return copies


def _copies_name(verdict: str) -> str:
    return f"{verdict.removesuffix('.npy')}.copies.npy"
