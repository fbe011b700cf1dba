"""One body behind many urls is found by urls, not by captions, and dropped by a setting, whatever interrupts it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from images_world import LOOPBACK, jpeg, rows_of, sha256, web, write_pool

from datacomp_core.pool import error_pictures, ledger, removal
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.shards import index_shard, read_index, shard_names
from datacomp_core.store import Store

KEEP = ImageSpec(image_size=64, samples_per_shard=10, retries=0, exif="drop")
DROP = KEEP.model_copy(update={"error_pictures": "drop", "error_picture_urls": 4})


def test_error_pictures_are_dropped_by_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path))
    with web() as (base, _):
        good = [f"{base}/ok/{number}.jpg" for number in range(1, 12)]
        same = [f"{base}/gone{number}/0.jpg" for number in range(4)]  # one picture at four places
        rows = rows_of(good[:6] + same[:2] + good[6:] + same[2:] + [good[0]] * 5)  # and one place with six captions
        pool = write_pool(tmp_path / "pool", [rows])
        kept = download_images(KEEP, pool, store=store, threads=4, open_networks=LOOPBACK)
        assert kept.num_samples == rows.height
        assert error_pictures.find(store.folder(kept), 4) == {sha256(jpeg(0))[:32]: 4}
        assert error_pictures.find(store.folder(kept), 5) == {}

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:  # after the first tar was rewritten, before its ledger was
            patch.setattr(removal, "from_ledger", killed)
            with pytest.raises(KeyboardInterrupt):
                download_images(DROP, pool, store=store, threads=4, open_networks=LOOPBACK)
        made = download_images(DROP, pool, store=store, threads=4, open_networks=LOOPBACK)
    folder = store.folder(made)
    clean = rows.filter(~pl.col("url").is_in(same))
    assert made.counts == {"candidates": 20, "arrived": 16, "error_picture": 4, "hash_mismatches": 0}
    assert made.content == f"{ledger.digest(clean['uid']):064x}"
    assert [u for name in shard_names(folder) for u in read_index(folder, name)["uid"]] == clean["uid"].to_list()
    for name in shard_names(folder):
        assert read_index(folder, name).equals(index_shard(folder, name).whole())
        assert json.loads(folder.read(f"{name}_stats.json"))["successes"] == read_index(folder, name).height
    record = store.record(made.address)
    assert record is not None
    assert store.missing(record) == ""
