"""Set operations on subset files against Counter's, in slices of any size."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder
from datacomp_core.subset_files import SubsetFile, combine


def _written(path: Path, chance: np.random.Generator, size: int) -> Counter[str]:
    packed = np.empty(size, uid.DTYPE)
    packed["f0"], packed["f1"] = chance.integers(0, 12, size) * np.uint64(2**60), chance.integers(0, 4, size)
    path.write_bytes(uid.subset_bytes(packed))
    return Counter(uid.unpack(packed).to_list())


@pytest.mark.parametrize("chunk", [7, 1 << 22])
@pytest.mark.parametrize("sizes", [(60, 40), (50, 0), (30, 30, 45)])
def test_operations_are_those_of_multisets(sizes: tuple[int, ...], chunk: int, tmp_path: Path) -> None:
    chance = np.random.default_rng(sum(sizes))
    files = [SubsetFile(Folder(tmp_path), f"{number}.npy") for number in range(len(sizes))]
    counts = [_written(tmp_path / file.name, chance, size) for file, size in zip(files, sizes, strict=True)]
    expected = {
        "union": reduce(lambda a, b: a | b, counts),
        "intersection": reduce(lambda a, b: a & b, counts),
        "difference": reduce(lambda a, b: a - b, counts),
        "sum": sum(counts, Counter[str]()),
    }
    for operation, wanted in expected.items():
        made = combine(operation, files, tmp_path / "out.npy", chunk=chunk)  # pyright: ignore[reportArgumentType]
        found = uid.read_subset((tmp_path / "out.npy").read_bytes(), "it")
        assert Counter(uid.unpack(found).to_list()) == +wanted
        assert made == (len(found), len(+wanted))
    combine("union", files, tmp_path / "out.npy", as_sets=True, chunk=chunk)
    found = uid.read_subset((tmp_path / "out.npy").read_bytes(), "it")
    assert uid.unpack(found).to_list() == sorted(expected["union"])


def test_what_is_no_subset_file_is_told(tmp_path: Path) -> None:
    _written(tmp_path / "a.npy", np.random.default_rng(4), 5)
    a, b = (SubsetFile(Folder(tmp_path), name) for name in ("a.npy", "b.npy"))
    np.save(tmp_path / "b.npy", np.arange(4))
    with pytest.raises(DataError, match="dtype int64"):
        combine("union", [a, b], tmp_path / "out.npy")
    unsorted = uid.sort(uid.read_subset((tmp_path / "a.npy").read_bytes(), "it"))[::-1]
    np.save(tmp_path / "b.npy", unsorted)
    with pytest.raises(DataError, match=r"b\.npy is not sorted"):
        combine("union", [a, b], tmp_path / "out.npy", chunk=2)
    with pytest.raises(SpecError, match="needs at least two subset files"):
        combine("union", [a], tmp_path / "out.npy")
