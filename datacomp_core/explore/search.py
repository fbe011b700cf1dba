"""The nearest of the sampled vectors to a query, exactly (faiss, every vector is compared), among all or among some of the rows.

Features are on disk in half precision, and the index keeps them so: two bytes a dimension and sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import SpecError
from datacomp_core.explore.layout import known_rows

AT_ONCE = 1 << 16


class Neighbors(NamedTuple):
    """Rows and their cosines, the nearest first."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExactIndex:
    """An index over rows that have features. `rows`: the sample's row of each of its vectors."""

    index: Any
    rows: npt.NDArray[np.int64]
    dimensions: int

    def search(self, query: npt.NDArray[np.floating], count: int, among: npt.NDArray[np.bool_] | None = None) -> Neighbors:
        """The nearest to a vector (d,) by cosine; `among` (sample rows,): those that may be found. SpecError for odd vectors."""
        import faiss

        wanted = unit_query(query, self.dimensions)
        options: dict[str, Any] = {}
        if among is not None:
            chosen = np.ascontiguousarray(np.packbits(among[self.rows], bitorder="little"))
            selector = faiss.IDSelectorBitmap(len(self.rows), faiss.swig_ptr(chosen))
            options["params"] = faiss.SearchParameters(sel=selector)  # pyright: ignore[reportCallIssue]
        count = min(count, len(self.rows))
        if not count:
            return Neighbors(np.empty(0, np.int64), np.empty(0, np.float32))
        scores, places = self.index.search(wanted[None], count, **options)
        found = places[0] >= 0
        return Neighbors(self.rows[places[0][found]], scores[0][found])


def unit_query(query: npt.NDArray[np.floating], dimensions: int) -> npt.NDArray[np.float32]:
    """A query as a vector of length 1. SpecError if it cannot be one."""
    wanted = np.ascontiguousarray(query, np.float32).reshape(-1)
    length = float(np.linalg.norm(wanted))
    if len(wanted) != dimensions or not np.isfinite(length) or not length:
        raise SpecError(f"Search needs a vector of {dimensions} finite numbers, but this one has {len(wanted)}.")
    return wanted / length


def exact_index(vectors: npt.NDArray[np.float16]) -> ExactIndex:
    """An index of all rows that have features, in half precision, which they are kept in."""
    import faiss

    rows = known_rows(vectors)
    index = faiss.IndexScalarQuantizer(max(vectors.shape[1], 1), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(np.zeros((1, max(vectors.shape[1], 1)), np.float32))
    for start in range(0, len(rows), AT_ONCE):
        some = np.ascontiguousarray(vectors[rows[start : start + AT_ONCE]], np.float32)
        index.add(some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12))
    return ExactIndex(index, rows, vectors.shape[1])
