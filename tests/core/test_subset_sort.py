"""An unsorted subset file is sorted in runs on the disk, with its repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.selection.sorting import sort_subset
from datacomp_core.store import Folder


@pytest.mark.parametrize("form", ["structured", "two columns"])
@pytest.mark.parametrize("run_rows", [7, 1000])
def test_it_is_numpys_sort(form: str, run_rows: int, tmp_path: Path) -> None:
    pairs = np.random.default_rng(0).integers(0, 5, (100, 2), dtype=np.uint64)
    np.save(tmp_path / "mine.npy", pairs.view(uid.DTYPE).reshape(-1) if form == "structured" else pairs)
    rows, unique = sort_subset(Folder(tmp_path), "mine.npy", tmp_path / "out.npy", run_rows=run_rows)
    found = uid.read_subset((tmp_path / "out.npy").read_bytes(), "it")
    want = sorted(map(tuple, pairs.tolist()))
    assert [tuple(one) for one in found.tolist()] == want
    assert (rows, unique) == (100, len(set(want)))


def test_the_message_of_an_unsorted_file_names_the_command(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.array([(2, 0), (1, 0)], uid.DTYPE))
    with pytest.raises(DataError, match="datacomp subset sort FILE --out SORTED"):
        uid.read_subset((tmp_path / "mine.npy").read_bytes(), "mine.npy")
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(DataError, match="a subset file is one of dtype u8,u8"):
        sort_subset(Folder(tmp_path), "other.npy", tmp_path / "out.npy")


@pytest.mark.parametrize("dtype", [">u8,>u8", ">u8"])
def test_the_other_byte_order_is_told_and_sorted(dtype: str, tmp_path: Path) -> None:
    pairs = [(1 << 40, 2), (1, 1 << 50)]
    np.save(tmp_path / "big.npy", np.array(pairs, dtype))
    if "," in dtype:
        with pytest.raises(DataError, match=r"big\.npy has big-endian numbers: .*datacomp subset sort"):
            uid.open_subset(tmp_path / "big.npy")
    assert sort_subset(Folder(tmp_path), "big.npy", tmp_path / "out.npy") == (2, 2)
    assert uid.open_subset(tmp_path / "out.npy").tolist() == sorted(pairs)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.npy").touch()
    with pytest.raises(DataError, match=r"s\.npy is empty"):
        uid.open_subset(tmp_path / "s.npy")
