"""The exact k-th best score, against sorting everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from datacomp_core.selection import threshold_search as cut
from datacomp_core.selection.threshold_search import KeyWindow, WindowCounts, count_window, find, keys_of, value_of


def _find(parts: list[pl.Series], k: int, *, is_few: bool = False) -> float | int | None:
    def every(window: KeyWindow) -> Iterator[WindowCounts]:
        for part in parts:
            yield count_window(part, len(part), window)

    return find(every, lambda rows: (k, False), is_few=is_few)[0].value


@pytest.mark.parametrize("few", [1, 100, 1 << 22])
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64, pl.UInt64])
def test_every_rank(dtype: type[pl.DataType], few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "FEW", few)
    random = np.random.default_rng(0)
    if dtype == pl.UInt64:
        values = random.integers(0, 2**64, 500, np.uint64).tolist()
    else:
        values = [*random.normal(0, 1, 300), *np.round(random.normal(0, 1, 190), 1), 0.0, -0.0, 1e30, -1e30, 1e-40, *[0.5] * 5]
    whole = pl.Series(values, dtype=dtype)
    parts = [whole[:7], whole[7:7], whole[7:300], pl.Series([None] * 9, dtype=dtype), whole[300:]]
    ordered = whole.sort(descending=True).to_list()
    for k in [0, 1, 2, 17, 249, 250, len(values) - 2, len(values) - 1]:
        assert _find(parts, k) == _find(parts, k, is_few=True) == ordered[k]
    assert _find(parts, len(values)) is _find(parts, len(values), is_few=True) is None
    assert _find(parts, -1) is None


def test_keys_keep_the_order_and_go_back() -> None:
    values = np.array([-np.inf, -3.5, -1e-45, 0.0, 1e-45, 0.1, 7, np.inf], np.float32)
    keys, dtype = keys_of(pl.Series(values))
    assert np.all(keys[1:] > keys[:-1])
    assert [value_of(int(key), dtype) for key in keys] == [float(value) for value in values]


def test_parts_that_disagree_on_the_type_are_refused() -> None:
    with pytest.raises(cut.DataError, match="disagree"):
        _find([pl.Series([1.0], dtype=pl.Float32), pl.Series([1.0], dtype=pl.Float64)], 0)
