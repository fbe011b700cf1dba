"""Arrays from strangers: what their header says and their bytes do not have takes no memory and is one sentence."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest

from datacomp_core.arrays import read_npy
from datacomp_core.errors import DataError
from datacomp_core.evaluation.datasets import _parsed


def npy(shape: tuple[int, ...], data: bytes, descr: Any = "<i4") -> bytes:
    """An npy whose header says what it likes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


GOOD = np.arange(12, dtype=np.float32).reshape(3, 4)
HEADER = npy((), b"")
HOSTILE = {
    "large": npy((1 << 50,), b""),
    "short": npy((3,), b"1234"),
    "long": npy((1,), b"12345678"),
    "negative": npy((-1,), b"1234"),
    "objects": npy((1,), b"12345678", "|O"),
    "empty": b"",
    "text": b"hello",
    "cut": HEADER[:40],
    "unbalanced": HEADER[:10] + b"{" * (len(HEADER) - 10),
    "nested": HEADER[:10] + b"(" * (len(HEADER) - 11) + b"\n",
    "bytes": HEADER[:10] + b"\xff" * (len(HEADER) - 10),
}


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_read_as_numpy_reads_it(order: Any) -> None:
    file = io.BytesIO()
    np.save(file, np.array(GOOD, order=order))
    found = read_npy(file.getvalue(), "it")
    assert np.array_equal(found, GOOD)
    found[0, 0] = 7


@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
def test_what_is_no_array_is_one_sentence(data: bytes) -> None:
    with pytest.raises(DataError) as problem:
        read_npy(data, "it")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("captions", b"[" * 100_000),
        ("captions", b"{"),
        ("cls", b"9" * 10_000),
        ("cls", b""),
        ("txt", b"\xff"),
        *(("npy", data) for data in HOSTILE.values()),
    ],
)
def test_a_bad_member_of_a_test_set_is_one_sentence(name: str, data: bytes) -> None:
    with pytest.raises(DataError, match=f"its {name} cannot be read"):
        _parsed(name, {name: data}, hashlib.sha256())
