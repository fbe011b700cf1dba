"""What changes of a realised pool read: nothing that they have just written, and of a shard that does not change no more than
the search for the samples needs. The records are compared with what the files say.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, web
from odd_tars import pack, samples

from datacomp_core.artifacts import ShardSet
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.pool.retry import retry_images
from datacomp_core.pool.takedown import take_down_list
from datacomp_core.store import Folder, Store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read whole in this process."""
    found: Counter[str] = Counter()
    read = Folder.read

    def counted(folder: Folder, name: str) -> bytes:
        found[folder.at(name)] += 1
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", counted)
    return found


def as_the_files_say(folder: Folder, shards: ShardSet) -> None:
    """A record against indexes and ledgers, read by polars alone."""
    root = Path(folder.url.removeprefix("file://"))
    uids = [one for file in sorted((root / "index").glob("*.parquet")) for one in pl.read_parquet(file)["uid"].to_list()]
    book = pl.concat([pl.read_parquet(file) for file in sorted((root / "ledger").glob("*.parquet"))], how="diagonal_relaxed")
    assert shards.num_samples == len(uids)
    assert shards.num_unique == len(set(uids))
    digest = sum(int(hashlib.sha256(one.encode()).hexdigest(), 16) for one in uids) % 2**256
    assert shards.content == f"{digest:064x}"
    reasons = Counter(book["reason"].fill_null("arrived").to_list())
    assert {name: shards.counts[name] for name in reasons} == dict(reasons)
    assert shards.counts["candidates"] == book.height


def test_adopt_reads_no_index_that_it_has_written(tmp_path: Path, reads: Counter[str]) -> None:
    root = tmp_path / "old"
    root.mkdir()
    for tar in range(3):
        (root / f"{tar:05d}.tar").write_bytes(pack(samples(range(4 * tar, 4 * tar + 4 + tar % 2), uids=True)))
    store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(root))
    shards = adopt_shards(spec, adopt_metadata(spec, store=store), store=store)
    as_the_files_say(Folder(str(root)), shards)
    assert (shards.num_samples, shards.num_unique) == (13, 12)  # the second tar ends with the first sample of the third
    written = {path: times for path, times in reads.items() if "/index/" in path or "/ledger/" in path}
    assert set(written.values()) == {1}, written  # the copies below the attempt, to be published
    assert not [path for path in written if path.startswith(str(root))]


@pytest.mark.parametrize("repeats", [False, True])
def test_a_takedown_reads_a_shard_that_does_not_change_no_further(tmp_path: Path, reads: Counter[str], repeats: bool) -> None:
    store = Store.open(str(tmp_path / "store"))
    with web() as (url, _):
        urls = [f"{url}/{'status/503' if n == 3 else f'ok/{n}'}.jpg" for n in range(12)]
        table = rows_of(urls).select("url", "text", "uid")
        (tmp_path / "tables").mkdir()
        (pl.concat([table, table.tail(1)]) if repeats else table).write_parquet(tmp_path / "tables/all.parquet")
        columns = Columns(url="url", text="text", uid="uid")
        pool = import_pool(ByodPoolSpec(source=str(tmp_path / "tables"), name="web", columns=columns), store=store)
        how = {"store": store, "threads": 2, "open_networks": LOOPBACK}
        spec = ImageSpec(image_size=64, samples_per_shard=4)
        shards = download_images(spec, pool, **how)
        folder = store.folder(shards)
        as_the_files_say(folder, shards)
        reads.clear()
        (tmp_path / "list.txt").write_text(table["uid"][1])
        take_down_list(store, tmp_path / "list.txt")
        taken = store.artifact(ShardSet, store.record(shards.address))
        as_the_files_say(folder, taken)
        assert taken.counts["taken_down"] == 1
        assert taken.num_samples == shards.num_samples - 1
        assert reads[folder.at("ledger/00000001.parquet")] == 2  # by the search and by the removal
        assert reads[folder.at("index/00000001.parquet")] == (4 if repeats else 3)  # where uids repeat, they are counted again
        told = retry_images(spec, pool, shards.address, **how)
        assert (told.tried, told.arrived) == (1, 0)
        as_the_files_say(folder, told.shards)


def test_a_retry_that_was_killed_between_ledger_and_statistics_counts_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with web() as (url, _):
        urls = [f"{url}/{'status/503' if n in (1, 6) else f'ok/{n}'}.jpg" for n in range(8)]
        (tmp_path / "tables").mkdir()
        rows_of(urls).select("url", "text", "uid").write_parquet(tmp_path / "tables/all.parquet")
        columns = Columns(url="url", text="text", uid="uid")
        pool = import_pool(ByodPoolSpec(source=str(tmp_path / "tables"), name="web", columns=columns), store=store)
        how = {"store": store, "threads": 2, "open_networks": LOOPBACK}
        spec = ImageSpec(image_size=64, samples_per_shard=4, min_arrived=0.1)
        shards = download_images(spec, pool, **how)
        folder = store.folder(shards)
        older = folder.read("00000000_stats.json")
        write = Folder.write_json

        class KilledError(BaseException): ...

        def killed(at: Folder, name: str, value: object) -> object:
            if name == "00000000_stats.json":
                raise KilledError
            return write(at, name, value)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(Folder, "write_json", killed)
            retry_images(spec, pool, shards.address, **how)
        assert folder.read("00000000_stats.json") == older
        assert pl.read_parquet(io.BytesIO(folder.read("ledger/00000000.parquet"))).height == 3
        as_the_files_say(folder, retry_images(spec, pool, shards.address, **how).shards)
