"""What is done with a download afterwards: tried again, told, compared, taken from; over a real server."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, web, write_pool

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import SpecError
from datacomp_core.pool import ledger
from datacomp_core.pool.amend import begin
from datacomp_core.pool.download_images import ImageSpec, download_images, images_of
from datacomp_core.pool.estimate import estimate
from datacomp_core.pool.overlap import OverlapSpec, intersect
from datacomp_core.pool.retry import retry_images
from datacomp_core.pool.stats import LedgerTally, plot, tally
from datacomp_core.pool.takedown import TakedownResult, take_down_list
from datacomp_core.shards import index_shard, parse_sample, read_index, shard_names
from datacomp_core.store import Store

SPEC = ImageSpec(image_size=64, samples_per_shard=6, timeout_seconds=5, retries=0, exif="drop")


@dataclass
class World:
    store: Store
    pool: Pool
    shards: ShardSet
    others: ShardSet
    rows: pl.DataFrame
    base: str
    hits: Counter[str]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two downloads of one small web, made once: of all rows, and of all but the first three."""
    root = tmp_path_factory.mktemp("store")
    store = Store.open(str(root))
    with web() as (base, hits):
        urls = [f"{base}/ok/{n}.jpg" for n in range(8)] + [f"{base}/status/{code}" for code in (404, 503, 500)]
        urls += [f"{base}/ok/0.jpg"] * 5  # one picture with other captions
        rows = rows_of(urls)
        pool = write_pool(root / "pool", [rows[:9], rows[9:]])
        other = write_pool(root / "other", [rows[3:]]).model_copy(update={"fingerprint": "e" * 64})
        shards, others = (download_images(SPEC, one, store=store, threads=4, open_networks=LOOPBACK) for one in (pool, other))
        yield World(store, pool, shards, others, rows, base, hits)


@pytest.fixture
def world(once: World, tmp_path: Path) -> World:
    """A copy of the store, to be changed."""
    shutil.copytree(once.store.root.path, tmp_path / "copy")
    return replace(once, store=Store.open(str(tmp_path / "copy")))


def books(world: World, shards: ShardSet) -> pl.DataFrame:
    folder = world.store.folder(shards).path
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "ledger").iterdir())])


def test_a_retry_fetches_what_failed_for_a_passing_reason_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Counter(world.hits)
    told = retry_images(SPEC, world.pool, world.shards.address, store=world.store, threads=4, open_networks=LOOPBACK)
    assert Counter(world.hits) - before == {"/status/503": 1, "/status/500": 1}
    assert (told.tried, told.arrived) == (2, 0)
    assert told.shards.counts["candidates"] == world.rows.height
    assert sorted(books(world, told.shards)["uid"]) == sorted(world.rows["uid"])
    assert told.shards.num_shards == world.shards.num_shards + 1
    again = retry_images(SPEC, world.pool, world.shards.address, store=world.store, threads=4, open_networks=LOOPBACK)
    assert again.tried == 2
    assert again.shards.counts == told.shards.counts
    assert download_images.run(SPEC, world.pool, store=world.store).status == "reused"


def test_a_retry_takes_rows_not_uids(world: World) -> None:
    """Two rows of one uid, of which one arrived: the other alone is fetched again."""
    folder, name = world.store.folder(world.shards), "00000000"
    book = pl.read_parquet(io.BytesIO(folder.read(f"ledger/{name}.parquet")))
    metadata = world.store.root.path / "pool/metadata/00000000.parquet"
    rows = pl.read_parquet(metadata)
    twin = rows["uid"][0]
    rows.with_columns(uid=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(twin)).otherwise("uid")).write_parquet(metadata)
    second = pl.int_range(pl.len()) == 1
    lost = {"uid": pl.lit(twin), "reason": pl.lit("timeout"), "status": pl.lit("failed_to_download")}
    changed = book.with_columns(
        pl.when(second).then(value).otherwise(pl.col(column)).alias(column) for column, value in lost.items()
    )
    buffer = io.BytesIO()
    changed.write_parquet(buffer)
    folder.write(f"ledger/{name}.parquet", buffer.getvalue())
    told = retry_images(SPEC, world.pool, world.shards.address, store=world.store, threads=4, open_networks=LOOPBACK)
    assert (told.tried, told.arrived) == (3, 1)
    fetched = pl.read_parquet(io.BytesIO(folder.read(f"retry/{next(iter((folder / 'retry').files()))}")))
    assert sorted(fetched["url"]) == sorted([rows["url"][1], *world.rows.filter(pl.col("url").str.contains("/status/50"))["url"]])


def test_what_a_retry_brings_joins_the_pool_and_changes_its_fingerprint(world: World) -> None:
    folder, name = world.store.folder(world.shards), "00000001"
    book = pl.read_parquet(io.BytesIO(folder.read(f"ledger/{name}.parquet")))
    failed = world.rows.filter(pl.col("url").str.contains("/status/503"))["uid"][0]
    metadata = world.store.root.path / "pool/metadata/00000001.parquet"
    mended = pl.read_parquet(metadata).with_columns(url=pl.col("url").str.replace("/status/503", "/ok/99.jpg"))
    mended.write_parquet(metadata)  # the host is up again
    assert book.height
    told = retry_images(SPEC, world.pool, world.shards.address, store=world.store, threads=4, open_networks=LOOPBACK)
    assert told.arrived == 1
    assert told.shards.num_samples == world.shards.num_samples + 1
    assert told.shards.fingerprint != world.shards.fingerprint
    arrived = books(world, told.shards).filter(pl.col("reason").is_null())["uid"]
    assert failed in arrived
    assert told.shards.content == f"{ledger.digest(arrived):064x}"
    kept = world.store.record(world.shards.address)
    assert kept is not None
    assert world.store.missing(kept) == ""


def test_a_change_that_was_killed_is_taken_up(world: World) -> None:
    begin(world.store, world.shards.address)
    assert world.store.record(world.shards.address) is None
    told = retry_images(SPEC, world.pool, world.shards.address, store=world.store, threads=4, open_networks=LOOPBACK)
    assert told.tried == 2
    assert world.store.record(world.shards.address) is not None


def test_the_tally_tells_reasons_hosts_and_time(world: World) -> None:
    found = tally(world.store.folder(world.shards))
    assert found.reasons == {"arrived": 13, "http_5xx": 2, "http_4xx": 1}
    assert (found.arrived_from["127.0.0.1"], found.lost_from["127.0.0.1"]) == (13, 3)
    assert found.arrived_at.total() == 13
    assert plot(found).startswith(b"\x89PNG")


def test_what_looks_like_our_own_fault_is_said() -> None:
    assert "resolver" in LedgerTally(reasons=Counter(arrived=800, dns=200)).warnings()[0]
    assert "threads" in LedgerTally(reasons=Counter(arrived=700, timeout=300)).warnings()[0]
    assert LedgerTally(reasons=Counter(arrived=900, http_4xx=100)).warnings() == []
    assert LedgerTally(reasons=Counter(dns=10)).warnings() == []


def test_two_realised_pools_are_cut_to_what_they_have_in_common(world: World) -> None:
    theirs = world.others
    made = intersect(OverlapSpec(), world.shards, theirs, store=world.store)
    arrived = [set(books(world, s).filter(pl.col("reason").is_null())["uid"]) for s in (world.shards, theirs)]
    common = np.load(world.store.folder(made).path / "subset.npy")
    assert set(uid.unpack(common)) == arrived[0] & arrived[1]
    assert made.counts == {"in_both": 10, "only_here": 3, "only_there": 0}


def test_a_takedown_removes_the_bytes_and_marks_what_was_made(world: World) -> None:
    other = world.others
    made = intersect(OverlapSpec(), world.shards, other, store=world.store)
    urls = set(world.rows["url"][3:5])
    gone = set(world.rows["uid"][3:5])
    taken = take_down(world.store, gone)
    assert taken.removed == {world.shards.address: 2, other.address: 2}
    assert made.address in taken.marked
    assert world.store.home(made.address).exists("_takedown.json")
    folder = world.store.folder(world.shards)
    for name in shard_names(folder):
        rows = read_index(folder, name)
        assert rows.equals(index_shard(folder, name).whole())
        assert not set(rows["uid"]) & gone
        for offset, length in rows.select("offset", "length").iter_rows():
            assert set(parse_sample(folder.read_range(f"{name}.tar", offset, offset + length))) == {"jpg", "json", "txt"}
        assert not any(url.encode() in folder.read(f"{name}.tar") for url in urls)
    record = world.store.record(world.shards.address)
    assert record is not None
    assert record.artifact["counts"]["taken_down"] == 2
    assert world.store.missing(record) == ""
    assert take_down(world.store, gone).removed == {}


def take_down(store: Store, uids: set[str]) -> TakedownResult:
    (store.root.path / "requests.txt").write_text("".join(f"{one}\n" for one in sorted(uids)))
    return take_down_list(store, store.root.path / "requests.txt")[0]


def test_a_takedown_of_nothing_is_told(world: World) -> None:
    with pytest.raises(SpecError, match="is empty: write one uid or url per line"):
        take_down(world.store, set())


def test_the_estimate_agrees_with_the_references_figures() -> None:
    told = estimate(12_800_000, images_of("small"), 16)
    assert 0.9 < told.disk_bytes / 450e9 < 1.1
    assert "hours" in told.sentence()
