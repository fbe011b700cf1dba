"""Retry of an adopted download: the rows that its parquets call failed for a passing reason, and no other."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from images_world import LOOPBACK, web
from odd_tars import pack, samples

from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.adopted_shard import TableColumns
from datacomp_core.pool.download_images import ImageSpec
from datacomp_core.pool.retry import retry_images
from datacomp_core.shards import read_index, read_samples
from datacomp_core.store import Folder, Store


@pytest.mark.slow
@pytest.mark.parametrize("uids", [True, False])
def test_what_its_table_calls_failed_is_fetched_again(tmp_path: Path, uids: bool) -> None:
    root = tmp_path / "old"
    root.mkdir()
    (root / "train-a.tar").write_bytes(pack(samples(range(2), uids=uids)))
    with web() as (base, hits):
        columns = {
            "key": ["000000000", "000000001", "x", "y", "z"],
            "url": ["http://h/0000.jpg", "http://h/0001.jpg", *(f"{base}/ok/{n}.jpg" for n in (3, 4, 5))],
            "caption": ["a", "b", "late", "gone", "busy"],
            "status": ["success", "success", *["failed_to_download"] * 3],
            "error_message": [None, None, "timed out", "HTTP Error 404: Not Found", "HTTP Error 429: Too Many Requests"],
        }
        if uids:
            columns["uid"] = [f"{n:032x}" for n in range(5)]
        pl.DataFrame(columns).write_parquet(root / "train-a.parquet")
        store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(root))
        pool = adopt_metadata(spec, store=store)
        shards = adopt_shards(spec, pool, store=store)
        assert shards.counts == {"candidates": 5, "arrived": 2, "busy": 1, "http_4xx": 1, "timeout": 1}
        how = {"store": store, "threads": 2, "open_networks": LOOPBACK, "tables": TableColumns()}
        told = retry_images(ImageSpec(image_size=64), pool, shards.address, **how)
        assert (told.tried, told.arrived) == (2, 2)
        assert dict(hits) == {"/ok/3.jpg": 1, "/ok/5.jpg": 1}
        assert told.shards.counts["arrived"] == 4
        assert "timeout" not in told.shards.counts
        found = dict(read_samples(Folder(root), read_index(Folder(root), "00000000")))
        assert sorted(members["txt"] for members in found.values()) == [b"busy", b"late"]
        if uids:
            assert set(found) == {f"{n:032x}" for n in (2, 4)}
        assert retry_images(ImageSpec(image_size=64), pool, shards.address, **how).tried == 0
