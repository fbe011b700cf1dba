"""img2dataset's own distributors end with the same shards as our engines, and say so when one was not finished."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, untimed, web, write_pool

from datacomp_core.errors import DatacompError
from datacomp_core.pool.distributors import Distributor
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store

SPEC = ImageSpec(image_size=64, samples_per_shard=10, exif="drop")


def needed(name: str) -> None:
    if name == "pyspark" and (importlib.util.find_spec("pyspark") is None or shutil.which("java") is None):
        pytest.skip("needs pyspark and a Java runtime")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multiprocessing", "pyspark", "ray"])
def test_the_same_shards_by_any_distributor(name: Distributor, tmp_path: Path) -> None:
    needed(name)
    ours, theirs = Store.open(str(tmp_path / "ours")), Store.open(str(tmp_path / "theirs"))
    with web() as (base, _):
        rows = rows_of([f"{base}/ok/{number}.jpg" if number % 7 else f"{base}/status/404" for number in range(45)])
        pool = write_pool(tmp_path / "ours/pool", [rows])
        write_pool(tmp_path / "theirs/pool", [rows])
        wanted = download_images(SPEC, pool, store=ours, threads=8, open_networks=LOOPBACK)
        made = download_images(SPEC, pool, store=theirs, workers=2, threads=8, open_networks=LOOPBACK, distributor=name)
    assert (made.content, made.counts) == (wanted.content, wanted.counts)
    for path in ours.folder(wanted).files():
        data = [store.folder(shards).read(path) for store, shards in ((ours, wanted), (theirs, made))]
        if path.startswith("ledger/"):
            assert untimed(data[0]).equals(untimed(data[1]))
        else:
            assert data[0] == data[1]


@pytest.mark.slow
def test_a_shard_that_a_distributor_loses_is_an_error_and_the_others_are_kept(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with web() as (base, _):
        rows = rows_of([f"{base}/ok/{number}.jpg" for number in range(30)])
        holed = rows.with_columns(uid=pl.when(pl.int_range(pl.len()) != 12).then(pl.col("uid")))
        pool = write_pool(tmp_path / "pool", [holed])
        with pytest.raises(DatacompError, match=r"did not finish 1 of 3 shards \(the first is 00000001\)"):
            download_images(SPEC, pool, store=store, threads=8, open_networks=LOOPBACK, distributor="multiprocessing")
    assert sorted(path.name for path in tmp_path.rglob("*_stats.json")) == ["00000000_stats.json", "00000002_stats.json"]
