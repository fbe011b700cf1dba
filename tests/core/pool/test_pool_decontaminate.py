"""A download with planted test images: they are found through scaling and saving again, and nothing else is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
from images_world import LOOPBACK, jpeg, rows_of, web, write_pool
from PIL import Image

from datacomp_core import uid
from datacomp_core.artifacts import EvalSets
from datacomp_core.pool.decontaminate import DecontaminateSpec, decontaminate, hash_of
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store


def test_the_hash_is_by_the_lowest_frequencies() -> None:
    """By the sum of cosines that defines them, most significant bit first."""
    waves = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)
    for number in range(20):
        grey = Image.open(io.BytesIO(jpeg(number))).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        low = waves @ np.asarray(grey, float) @ waves.T
        assert hash_of(jpeg(number)) == sum(int(bit) << (63 - place) for place, bit in enumerate((low > np.median(low)).flat))
    assert hash_of(b"no picture") is None


def test_planted_test_images_are_found_and_left_out(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    place = tmp_path / "sets/wds_some_test/test"
    place.mkdir(parents=True)
    with tarfile.open(place / "0.tar", "w") as archive:
        for number in (3, 7, 100):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(jpeg(number))).resize((120, 80)).save(buffer, "PNG")
            member = tarfile.TarInfo(f"s{number}.png")
            member.size = len(buffer.getvalue())
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
    sets = EvalSets(scale="tiny", data="sets", fingerprint="a" * 64, suite="tiny", num_tasks=1)
    with web() as (base, _):
        rows = rows_of([f"{base}/ok/{number}.jpg" for number in range(20)])
        pool = write_pool(tmp_path / "pool", [rows])
        spec = ImageSpec(image_size=64, samples_per_shard=8, exif="drop")
        shards = download_images(spec, pool, store=store, open_networks=LOOPBACK)
    made = decontaminate(DecontaminateSpec(distance=4), shards, sets, store=store)
    hits = pl.read_parquet(store.folder(made).path / "hits.parquet")
    planted = rows["uid"].gather([3, 7]).to_list()
    assert sorted(hits["uid"]) == sorted(planted)
    assert set(hits["test_key"]) == {"s3", "s7"}
    clean = set(uid.unpack(np.load(store.folder(made).path / "subset.npy")))
    assert clean == set(rows["uid"]) - set(planted)
    assert made.counts == {"clean": 18, "like_a_test_image": 2, "not_decoded": 0, "test_images": 3}
