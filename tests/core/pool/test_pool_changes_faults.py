"""Retries and takedowns in a store that fails in every way: the same command ends them and leaves what a calm one leaves."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import polars as pl
import pytest
from images_world import LOOPBACK, jpeg, rows_of, untimed

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DatacompError
from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.pool.overlap import OverlapSpec, intersect
from datacomp_core.pool.retry import retry_images
from datacomp_core.pool.takedown import take_down_list
from datacomp_core.resharding.reshard import ReshardSpec, reshard
from datacomp_core.resharding.view import view
from datacomp_core.store import Folder, Store, failures
from datacomp_core.store import format as store_format

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from faulty_proxy import ALL_FAULTS, FaultyProxy, faulty_proxy

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(3600)]

ROWS, TRIALS, TRIES = 20, 12, 25
SPEC = ImageSpec(image_size=64, samples_per_shard=4, retries=0)
HOW: dict[str, Any] = {"workers": 1, "threads": 2, "open_networks": LOOPBACK}
# Without "403": a permission is not lost for a moment, and a run ends with it at once.
FAULTS = tuple(fault for fault in ALL_FAULTS if fault not in ("403", "slow"))


class World(NamedTuple):
    """A finished download in a bucket, of which every second picture failed for a reason that has gone since."""

    url: str
    pool: Pool
    shards: ShardSet
    uids: list[str]


@contextmanager
def pictures() -> Iterator[tuple[str, Callable[[], None]]]:
    """A web server of which every second picture is away until it is mended."""
    mended: list[bool] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.strip("/").removesuffix(".jpg"))
            if number % 2 and not mended:
                self.send_error(503)
                return
            data = jpeg(number)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the library's name

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", lambda: mended.append(True)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def world(tmp_path: Path, s3_url: str) -> Iterator[World]:
    with pictures() as (web, mend):
        rows = rows_of([f"{web}/{number}.jpg" for number in range(ROWS)])
        (tmp_path / "tables").mkdir()
        rows.select("url", "text", "uid").write_parquet(tmp_path / "tables/all.parquet")
        store = Store.open(f"{s3_url}/base")
        columns = Columns(url="url", text="text", uid="uid")
        pool = import_pool(ByodPoolSpec(source=str(tmp_path / "tables"), name="web", columns=columns), store=store)
        shards = download_images(SPEC, pool, store=store, **HOW)
        everything = intersect(OverlapSpec(name="all"), shards, shards, store=store)
        reshard(ReshardSpec(samples_per_shard=3), everything, shards, store=store)
        view(ReshardSpec(samples_per_shard=5), everything, shards, store=store)
        mend()
        yield World(f"{s3_url}/base", pool, shards, rows["uid"].to_list())


def copied(world: World, name: str) -> str:
    """Another store with the same content."""
    source, target = Folder(world.url), Folder(world.url.replace("/base", f"/{name}"))
    for path in source.files():
        target.write(path, source.read(path))
    return target.url


@contextmanager
def through(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests meet faults in this block; its clients are made anew."""
    import s3fs

    with monkeypatch.context() as there:
        there.setenv("AWS_ENDPOINT_URL", proxy.url)
        there.setattr(store_format, "_known", set[str]())
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def state(url: str) -> dict[str, Any]:
    """All that is published, read by tarfile and polars; what a calm change leaves, without the times."""
    store, found = Store(Folder(url)), dict[str, Any]()
    for record in store.records():
        assert store.missing(record) == ""
        found[record.address] = (record.artifact["counts"], record.artifact.get("num_samples"), record.fingerprint)
        home, folder = store.home(record.address), store.data(record)
        found[f"{record.address} mark"] = home.read("_takedown.npy") if home.exists("_takedown.npy") else None
        listed = set(store.manifest(record)["path"])
        if record.kind != "shards":
            continue
        assert listed == set(folder.files()), "nothing lies beside what is published"
        for name in listed:
            data, key = folder.read(name), f"{record.address} {name}"
            if name.endswith(".tar"):
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    found[key] = [(one.name, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]
            elif name.startswith("ledger/"):
                found[key] = untimed(data).to_dicts()
            elif name.startswith("index/"):
                found[key] = pl.read_parquet(io.BytesIO(data)).to_dicts()
            else:
                found[key] = name
    assert list(store.lost()) == []
    return found


def check(
    world: World, s3_server: str, monkeypatch: pytest.MonkeyPatch, work: Callable[[str], None], trials: int = TRIALS
) -> None:
    monkeypatch.setattr(failures, "PAUSES", (0.02, 0.05))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    calm = copied(world, "calm")
    work(calm)
    expected = state(calm)
    assert expected != state(world.url)
    with faulty_proxy(s3_server) as proxy:
        proxy.faults = FAULTS
        for trial in range(trials):
            url, told = copied(world, f"trial-{trial}"), list[str]()
            proxy.share = (0.02, 0.06, 0.12)[trial % 3]
            for _ in range(TRIES):  # what a person does: the same command again
                try:
                    with through(proxy, monkeypatch):
                        work(url)
                    break
                except DatacompError as problem:
                    told.append(f"{type(problem).__name__}: {problem}")
            else:
                raise AssertionError(f"it did not end: {told[-3:]}")
            assert state(url) == expected, (trial, told)
        assert min(proxy.met[fault] for fault in FAULTS) > 5


def test_a_retry_ends_with_what_a_calm_one_leaves(world: World, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(url: str) -> None:
        retry_images(SPEC, world.pool, world.shards.address, store=Store(Folder(url)), **HOW)

    check(world, s3_server, monkeypatch, work)


def test_a_takedown_ends_with_what_a_calm_one_leaves(
    world: World, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(world.uids[number] for number in (0, 1, 6, 11, 12)))

    def work(url: str) -> None:
        taken, _ = take_down_list(Store(Folder(url)), tmp_path / "list.txt")
        if taken.unread:  # the command says so, and ends with status 1
            raise DatacompError(str(taken.unread))

    check(world, s3_server, monkeypatch, work)
