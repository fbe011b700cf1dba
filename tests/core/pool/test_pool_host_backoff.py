"""Downloads from a real server: hosts that ask for patience, urls with a password, deep and turned pictures."""

from __future__ import annotations

import io
import time
import urllib.error
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, web, write_pool
from PIL import Image

from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.pool.safe_http import RequestLimits, SafeOpener
from datacomp_core.store import Store

SPEC = ImageSpec(image_size=32, samples_per_shard=8, retries=0, timeout_seconds=5, min_arrived=0.0)


def deep() -> bytes:
    pixels = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    return cv2.imencode(".png", np.dstack([pixels] * 3))[1].tobytes()


def turned() -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), (200, 10, 10)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.slow
def test_odd_pictures_and_urls_with_a_password_are_counted_in_a_download(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    odd = {"/deep/1.png": deep(), "/deep/2.png": deep(), "/turned/3.jpg": turned()}
    with web(odd) as (base, hits):
        secret = base.replace("http://", "http://user:pw@") + "/ok/9.jpg"
        urls = [*(base + path for path in odd), f"{base}/ok/4.jpg", secret]
        pool = write_pool(tmp_path / "pool", [rows_of(urls)])
        kept = download_images(SPEC, pool, store=store, threads=2, open_networks=LOOPBACK)
        dropping = SPEC.model_copy(update={"deep_pictures": "drop", "turned_pictures": "drop"})
        left = download_images(dropping, pool, store=store, threads=2, open_networks=LOOPBACK)
    assert hits["/ok/9.jpg"] == 0
    counts = {"candidates": 5, "arrived": 4, "bad_url": 1, "deep_pictures": 2, "turned_pictures": 1}
    assert {name: kept.counts.get(name) for name in counts} == counts
    counts = {"candidates": 5, "arrived": 1, "bad_url": 1, "deep_picture": 2, "turned_picture": 1}
    assert {name: left.counts.get(name) for name in counts} == counts
    book = pl.concat([pl.read_parquet(path) for path in sorted((store.folder(kept).path / "ledger").iterdir())])
    assert book.sort("key")["picture"].to_list() == ["deep", "deep", "turned", None, None]
    assert not any("pw" in str(value) for row in book.rows() for value in row)


def test_a_host_that_asks_for_patience_is_left_alone_and_others_are_not() -> None:
    opener = SafeOpener(RequestLimits(1 << 20, 20.0, (LOOPBACK,)), {})
    with web() as (base, hits), web() as (other, _):
        with pytest.raises(urllib.error.HTTPError, match="429"):
            opener.open(f"{base}/busy/1")
        asked = time.monotonic()
        port = base.rpartition(":")[2]
        with opener.open(f"{other.replace('127.0.0.1', 'localhost')}/ok/1.jpg") as answer:
            assert answer.read()
        others = time.monotonic()
        with opener.open(f"http://127.0.0.1:{port}/ok/2.jpg") as answer:  # another page of the host that asked
            assert answer.read()
        waited = time.monotonic() - asked
    assert waited >= 0.95
    assert others - asked < waited
    assert hits["/ok/2.jpg"] == 1
