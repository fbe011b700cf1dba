"""A part that a bucket does not give is no damaged part: polars' own client meets faults, and the error says whose they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from datacomp_core.embedding.locate import count_rows
from datacomp_core.errors import DataError, StoreError
from datacomp_core.pool.footers import num_rows
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

sys.path.insert(0, str(Path(__file__).parent / "store"))
from faulty_proxy import faulty_proxy

pytestmark = pytest.mark.s3
READERS: dict[str, Callable[[Folder], Any]] = {
    "a selection": lambda folder: PoolSource(folder).read("0", ["text"]),
    "its scores": lambda folder: PoolSource(folder, (folder,)).num_rows("0"),
    "an embedding": lambda folder: count_rows(folder, ["0"]),
    "a download": lambda folder: num_rows(folder, "0", ("uid",)),
}


def one_part(url: str) -> Folder:
    """A folder of one part with one row."""
    folder = Folder(url)
    with folder.writing("0.parquet") as path:
        pl.DataFrame({"uid": ["a" * 32], "text": ["b"]}).write_parquet(path)
    return folder


@pytest.mark.parametrize("fault", ["403", pytest.param("500", marks=pytest.mark.slow)])
def test_a_part_that_a_bucket_does_not_give_is_no_damaged_part(
    fault: str, s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = one_part(s3_url)
    with faulty_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for read in READERS.values():
            proxy.number, proxy.planned = 0, dict.fromkeys(range(1000), fault)
            with pytest.raises(StoreError) as told:
                read(folder)
            assert not isinstance(told.value, DataError)
            assert "again" not in str(told.value), "nothing is to be made or fetched again"
            proxy.planned = {}
            read(folder)


def test_a_part_that_is_said_not_to_be_there_once_is_read(s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = one_part(s3_url)
    with faulty_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for read in READERS.values():
            for number in range(3):
                proxy.number, proxy.planned = 0, {number: "404"}
                read(folder)
        assert proxy.met["404"] > 3


def test_a_damaged_part_and_one_that_is_not_there_are_named(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.write("0.parquet", b"PAR1 no table PAR1")
    for read in READERS.values():
        with pytest.raises(DataError, match=r"0\.parquet"):
            read(folder)
        with pytest.raises(DataError, match=r"0\.parquet"):
            read(folder / "nowhere")
