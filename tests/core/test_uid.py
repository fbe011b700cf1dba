"""uids: packing against plain integers, subset files against numpy's own sort."""

from __future__ import annotations

import bisect
import hashlib
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacomp_core import uid
from datacomp_core.errors import DataError

HEX = st.integers(0, 2**128 - 1).map(lambda value: f"{value:032x}")


@given(st.lists(HEX, min_size=1, max_size=50))
def test_pack_is_the_references_arithmetic_and_unpack_its_inverse(uids: list[str]) -> None:
    packed = uid.pack(pl.Series(uids))
    assert packed.tolist() == [(int(text[:16], 16), int(text[16:32], 16)) for text in uids]
    assert uid.unpack(packed).to_list() == uids
    in_pieces = pl.Series(["0" * 32, *uids]).append(pl.Series([text.upper() for text in uids]))
    assert uid.pack(in_pieces[1:]).tolist() == packed.tolist() * 2
    assert uid.pack(in_pieces[1:1]).tolist() == []


def test_a_long_column_is_packed_whole() -> None:
    numbers = [number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128 for number in range(20_000)]
    assert uid.unpack(uid.pack(pl.Series([f"{number:032x}" for number in numbers]))).to_list() == [f"{n:032x}" for n in numbers]


WORD = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))


@given(st.lists(st.tuples(WORD, WORD), max_size=30))
def test_sort_is_lexicographic_and_keeps_repeats(pairs: list[tuple[int, int]]) -> None:
    packed = np.array(pairs, uid.DTYPE)
    assert uid.sort(packed).tolist() == sorted(pairs)
    assert uid.is_sorted(packed) == (pairs == sorted(pairs))
    assert uid.num_unique(uid.sort(packed)) == len(set(pairs))


def test_a_subset_file_is_what_the_reference_writes() -> None:
    packed = np.array([(3, 1), (1, 2), (1, 2), (0, 9)], uid.DTYPE)
    expected = io.BytesIO()
    np.save(expected, np.sort(packed))
    assert uid.subset_bytes(packed) == expected.getvalue()
    assert uid.read_subset(uid.subset_bytes(packed), "x").tolist() == [(0, 9), (1, 2), (1, 2), (3, 1)]


def test_what_is_no_uid_or_no_subset_is_refused() -> None:
    for bad in ("", "xyz", "0" * 31, "g" * 32, "0" * 33):
        with pytest.raises(DataError, match="is not a uid"):
            uid.pack(pl.Series(["0" * 32, bad]))
    with pytest.raises(DataError, match=r"None is not a uid.*1 such"):
        uid.pack(pl.Series(["0" * 32, None]))
    with pytest.raises(DataError, match=r"x\.npy is not a subset file"):
        uid.read_subset(b"nonsense", "x.npy")
    unsorted, floats = io.BytesIO(), io.BytesIO()
    np.save(unsorted, np.array([(2, 0), (1, 0)], uid.DTYPE))
    np.save(floats, np.zeros(3))
    with pytest.raises(DataError, match="is not sorted"):
        uid.read_subset(unsorted.getvalue(), "x.npy")
    with pytest.raises(DataError, match="dtype float64"):
        uid.read_subset(floats.getvalue(), "x.npy")


def test_a_pickled_array_is_never_loaded() -> None:
    hostile = io.BytesIO()
    np.save(hostile, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a subset file"):
        uid.read_subset(hostile.getvalue(), "x.npy")


def test_a_made_uid_is_stable_and_tells_url_from_text() -> None:
    assert uid.uid_of("http://a/b", "c") == hashlib.md5(b"http://a/b\x00c").hexdigest()
    assert uid.uid_of("ab", "c") != uid.uid_of("a", "bc")
    assert uid.uid_of("a", None) == uid.uid_of("a", "")
    assert len(uid.uid_of("http://x", "\ud800")) == 32


@pytest.mark.parametrize("spread", [1, 2, 3, 1000, 1 << 63])
def test_order_is_numpys_with_any_number_of_ties_and_repeats(spread: int) -> None:
    chance = np.random.default_rng(spread % 1009)
    for number in (0, 1, 2, 3, 10, 300):
        for shift in (0, 40):
            packed = np.empty(number, uid.DTYPE)
            packed["f0"] = chance.integers(0, spread, number, np.uint64) << np.uint64(shift if spread <= 1000 else 0)
            packed["f1"] = chance.integers(0, min(spread, 5), number, np.uint64)
            for some in (packed, np.sort(packed), np.sort(packed)[::-1].copy()):
                assert (uid.order(some) == np.lexsort((some["f1"], some["f0"]))).all()
                assert (uid.sort(some) == np.sort(some)).all()


def _tuples(packed: uid.Uids) -> list[tuple[int, int]]:
    return [(int(one["f0"]), int(one["f1"])) for one in packed]


@pytest.mark.parametrize("seed", range(5))
def test_places_in_a_sorted_multiset_are_those_of_bisect(seed: int) -> None:
    """Few values, so that both halves tie often; also what is before, between and behind all of them."""
    chance = np.random.default_rng(seed)
    subset, wanted = (
        np.array([tuple(pair) for pair in chance.integers(low, high, (40, 2)).tolist()], uid.DTYPE)
        for low, high in ((1, 5), (0, 7))
    )
    subset = uid.sort(subset)
    known = _tuples(subset)
    assert known == sorted(known)
    first, count = uid.locate(subset, wanted)
    assert count.tolist() == [known.count(one) for one in _tuples(wanted)]
    assert [place for place, number in zip(first.tolist(), count.tolist(), strict=True) if number] == [
        bisect.bisect_left(known, one) for one in _tuples(wanted) if one in known
    ]


@pytest.mark.parametrize("pieces", [1, 2, 3, 40])
def test_sorted_pieces_are_merged_with_their_repeats(pieces: int) -> None:
    chance = np.random.default_rng(pieces)
    parts = [
        uid.sort(np.array([tuple(pair) for pair in chance.integers(0, 4, (12, 2)).tolist()], uid.DTYPE)) for _ in range(pieces)
    ]
    assert _tuples(uid.merged(parts)) == sorted(one for part in parts for one in _tuples(part))


def test_the_wanted_part_of_sorted_stretches() -> None:
    values = np.array([1, 1, 2, 5, 5, 5, 7, 2, 5, 9], np.uint64)
    first, count = np.array([0, 3, 6, 7, 9]), np.array([3, 3, 1, 2, 1])
    for wanted in (0, 1, 2, 5, 7, 9, 10):
        begin, number = uid.stretch(values, first, count, wanted)
        for start, size, found, times in zip(first, count, begin, number, strict=True):
            own = values[start : start + size].tolist()
            assert times == own.count(wanted)
            assert found == start + bisect.bisect_left(own, wanted)


@given(st.lists(HEX, max_size=20), st.integers(0, 20))
def test_the_digest_is_a_sum_of_hashes_that_parts_add_up_to(uids: list[str], at: int) -> None:
    total = sum(int(hashlib.sha256(one.encode()).hexdigest(), 16) for one in uids)
    assert uid.digest(uids) == uid.digest(reversed(uids)) == total % 2**256
    assert (uid.digest(uids[:at]) + uid.digest(uids[at:])) % uid.DIGEST_MODULUS == uid.digest(uids)


def test_a_mapped_subset_file_is_whole(tmp_path: Path) -> None:
    packed = np.array([(0, 9), (1, 2), (1, 2), (3, 1)], uid.DTYPE)
    path = tmp_path / "subset.npy"
    path.write_bytes(uid.subset_bytes(packed))
    assert uid.open_subset(path).tolist() == packed.tolist()
    path.write_bytes(uid.subset_bytes(packed) + b"x")
    with pytest.raises(DataError, match="after its 4 uids"):
        uid.open_subset(path)
