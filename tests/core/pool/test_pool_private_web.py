"""A web of one's own behind private addresses: refused with the word for it, and fetched once its network is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from images_world import rows_of, web, write_pool

from datacomp_core.errors import IncompleteError, SpecError
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.pool.retry import retry_images
from datacomp_core.store import Store

SPEC = ImageSpec(image_size=32, samples_per_shard=4, retries=0, timeout_seconds=5)
LOOPBACK = "127.0.0.0/8"


def test_a_blocked_download_names_the_option_and_a_rerun_with_it_fetches(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with web() as (base, _):
        pool = write_pool(tmp_path / "pool", [rows_of([f"{base}/ok/{n}.jpg" for n in range(6)])])
        with pytest.raises(
            IncompleteError, match=r"Only 0 of 6 .*blocked_address 6.* 6 have .*such as 127\.0\.0\.1,.*--open-networks"
        ):
            download_images(SPEC, pool, store=store, threads=2)
        made = download_images(SPEC, pool, store=store, threads=2, open_networks=LOOPBACK)
    assert made.num_samples == 6
    record = store.record(made.address)
    assert record is not None
    assert record.options["open_networks"] == LOOPBACK


def test_a_rerun_after_the_cause_was_mended_fetches_what_fell_short_and_nothing_else(tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path)), SPEC.model_copy(update={"min_arrived": 0.6})
    with web() as (base, hits):
        urls = [f"{base}/ok/{n}.jpg" for n in range(4)] + [f"{base}/status/50{n}" for n in range(4)]
        pool = write_pool(tmp_path / "pool", [rows_of(urls)])
        with pytest.raises(IncompleteError, match=r"Only 4 of 8 images arrived"):
            download_images(spec, pool, store=store, threads=2, open_networks=LOOPBACK)
        before = dict(hits)
        with pytest.raises(IncompleteError, match=r"Only 4 of 8 images arrived"):
            download_images(spec, pool, store=store, threads=2, open_networks=LOOPBACK)
        again = {path: hits[path] - before.get(path, 0) for path in hits}
    assert {path for path, count in again.items() if count} == {path for path in hits if path.startswith("/status/")}


@pytest.mark.slow
def test_a_retry_with_the_network_fetches_what_was_blocked_and_nothing_else(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with web(host="0.0.0.0") as (base, hits):  # all of 127.0.0.0/8 is to answer
        port = base.rpartition(":")[2]
        urls = [f"http://127.0.0.{1 + n % 2}:{port}/ok/{n}.jpg" for n in range(8)]
        pool = write_pool(tmp_path / "pool", [rows_of(urls)])
        made = download_images(SPEC, pool, store=store, threads=2, open_networks="127.0.0.1/32")
        assert (made.num_samples, made.counts["blocked_address"]) == (4, 4)
        assert retry_images(SPEC, pool, made.address, store=store, threads=2).tried == 0, "still closed"
        before = dict(hits)
        told = retry_images(SPEC, pool, made.address, store=store, threads=2, open_networks="127.0.0.0/30")
    assert (told.tried, told.arrived, told.shards.num_samples) == (4, 4, 8)
    assert "blocked_address" not in told.shards.counts
    assert {path for path in hits if hits[path] > before.get(path, 0)} == {f"/ok/{n}.jpg" for n in (1, 3, 5, 7)}


def test_a_network_that_is_none_is_refused(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", [rows_of(["http://h/0"])])
    with pytest.raises(SpecError, match=r"'10\.0\.0\.0/99' is not a network"):
        download_images(SPEC, pool, store=Store.open(str(tmp_path)), open_networks="10.0.0.0/99")
