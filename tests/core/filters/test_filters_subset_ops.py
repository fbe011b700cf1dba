"""Set operations on subset files against Counter's, in slices of any size."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters.subset_ops import combine, compare


def _written(path: Path, chance: np.random.Generator, size: int) -> Counter[str]:
    packed = np.empty(size, uid.DTYPE)
    packed["f0"], packed["f1"] = chance.integers(0, 12, size) * np.uint64(2**60), chance.integers(0, 4, size)
    path.write_bytes(uid.subset_bytes(packed))
    return Counter(uid.unpack(packed).to_list())


@pytest.mark.parametrize("rows", [7, 1 << 22])
@pytest.mark.parametrize("sizes", [(60, 40), (50, 0), (30, 30, 45)])
def test_operations_are_those_of_multisets(sizes: tuple[int, ...], rows: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(sum(sizes))
    files = [tmp_path / f"{number}.npy" for number in range(len(sizes))]
    counts = [_written(path, chance, size) for path, size in zip(files, sizes, strict=True)]
    expected = {
        "union": reduce(lambda a, b: a | b, counts),
        "intersection": reduce(lambda a, b: a & b, counts),
        "difference": reduce(lambda a, b: a - b, counts),
        "sum": sum(counts, Counter[str]()),
    }
    for operation, wanted in expected.items():
        made = combine(operation, files, tmp_path / "out.npy", rows=rows)  # pyright: ignore[reportArgumentType]
        found = uid.read_subset((tmp_path / "out.npy").read_bytes(), "it")
        assert Counter(uid.unpack(found).to_list()) == +wanted
        assert made == (len(found), len(+wanted))
    combine("union", files, tmp_path / "out.npy", as_sets=True, rows=rows)
    found = uid.read_subset((tmp_path / "out.npy").read_bytes(), "it")
    assert uid.unpack(found).to_list() == sorted(expected["union"])


@pytest.mark.parametrize("rows", [5, 1 << 22])
def test_a_comparison_counts_sets_and_multisets(rows: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    a, b = (_written(tmp_path / f"{name}.npy", chance, size) for name, size in (("a", 50), ("b", 70)))
    told = compare(tmp_path / "a.npy", tmp_path / "b.npy", rows=rows)
    assert told.total == (50, 70)
    assert told.unique == (len(a), len(b))
    assert told.shared == len(set(a) & set(b))
    assert told.shared_repeats == (a & b).total()
    assert told.jaccard == pytest.approx(len(set(a) & set(b)) / len(set(a) | set(b)))
    assert told.weighted_jaccard == pytest.approx((a & b).total() / (a | b).total())
    (tmp_path / "none.npy").write_bytes(uid.subset_bytes(np.empty(0, uid.DTYPE)))
    assert compare(tmp_path / "none.npy", tmp_path / "none.npy").jaccard == 1.0


def test_what_is_no_subset_file_is_told(tmp_path: Path) -> None:
    _written(tmp_path / "a.npy", np.random.default_rng(4), 5)
    np.save(tmp_path / "b.npy", np.arange(4))
    with pytest.raises(DataError, match="dtype int64"):
        combine("union", [tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "out.npy")
    with pytest.raises(SpecError, match="two subset files or more"):
        combine("union", [tmp_path / "a.npy"], tmp_path / "out.npy")
