"""Rows sorted into buckets, against a sort in memory; and how many ranges that takes when there are many files and buckets."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from datacomp_core import shared_buckets
from datacomp_core.shared_buckets import SharedBuckets
from datacomp_core.store import Folder

RECORD = np.dtype([("writer", "i4"), ("place", "i8"), ("half", "f4", (2,))])


def one_by_one(function: Callable[[Any], Any], items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """As workers do: each is sent the function anew."""
    for item in items:
        yield item, pickle.loads(pickle.dumps(function))(item)


def filled(folder: Folder, num: int, files: int, rows: int) -> tuple[SharedBuckets, dict[int, list[tuple[int, int]]]]:
    """Buckets, and what each should hold, in order of file and row."""
    buckets, expected = SharedBuckets(folder, num, RECORD), dict[int, list[tuple[int, int]]]()
    for writer in range(files):
        chance = np.random.default_rng(writer)
        bucket = chance.integers(0, num, rows)
        bucket[bucket % 7 == 3] = 0  # some are empty
        places = np.arange(rows)
        half = np.stack([places, places * 2], axis=1)
        buckets.add(f"{writer:08d}", bucket, {"writer": np.full(rows, writer), "place": places, "half": half})
        for place, number in enumerate(bucket.tolist()):
            expected.setdefault(number, []).append((writer, place))
    buckets.add("nobody", np.empty(0, np.int64), {"writer": np.empty(0), "place": np.empty(0), "half": np.empty((0, 2))})
    return buckets, expected


def read(found: npt.NDArray[np.void]) -> list[tuple[int, int]]:
    assert (found["half"][:, 1] == found["place"] * 2).all()
    return list(zip(found["writer"].tolist(), found["place"].tolist(), strict=True))


@pytest.mark.parametrize(("num", "files"), [(1, 9), (2, 9), (17, 23), (100, 40)])
def test_regrouped_buckets_hold_the_same_rows_in_the_same_order(
    num: int, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_buckets, "FILES_AT_ONCE", 4)
    buckets, expected = filled(Folder(tmp_path), num, files, 60)
    assert buckets.regrouped(one_by_one) is buckets, "few are left as they are"
    before = [read(buckets.read(number)) for number in range(num)]
    assert before == [expected.get(number, []) for number in range(num)]
    monkeypatch.setattr(shared_buckets, "RANGES_WORTH_REGROUPING", 1)
    regrouped = pickle.loads(pickle.dumps(buckets.regrouped(one_by_one)))
    assert [read(regrouped.read(number)) for number in range(num)] == before
    assert not (tmp_path / "rows").exists(), "the disk is needed once"


@pytest.mark.parametrize("limit", [1, 700])
def test_batches_stay_within_their_bytes(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_buckets, "FILES_AT_ONCE", 4)
    monkeypatch.setattr(shared_buckets, "RANGES_WORTH_REGROUPING", 1)
    monkeypatch.setattr(shared_buckets, "BYTES_AT_ONCE", limit)
    buckets, expected = filled(Folder(tmp_path), 9, 11, 40)
    regrouped = buckets.regrouped(one_by_one)
    assert [read(regrouped.read(number)) for number in range(9)] == [expected.get(number, []) for number in range(9)]


def test_requests_grow_with_the_root_of_the_number_of_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num, files, at_once, ranges = 400, 200, 64, 0
    monkeypatch.setattr(shared_buckets, "FILES_AT_ONCE", at_once)
    monkeypatch.setattr(shared_buckets, "RANGES_WORTH_REGROUPING", 1)
    plain = Folder.read_ranges

    def counted(folder: Folder, wanted: Any) -> list[bytes]:
        nonlocal ranges
        ranges += len(wanted)
        return plain(folder, wanted)

    monkeypatch.setattr(Folder, "read_ranges", counted)
    buckets, expected = filled(Folder(tmp_path), num, files, 50)
    regrouped = buckets.regrouped(one_by_one)
    found = [read(regrouped.read(number)) for number in range(num)]
    assert found == [expected.get(number, []) for number in range(num)]
    batches = -(-files // at_once)
    assert ranges <= 2 * (20 * files + num * batches)
    assert ranges < num * files / 5, "two for each pair of a bucket and a file before"
