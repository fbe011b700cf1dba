"""Pools of every kind: the hub's over a real server of its shape, one's own tables, and downloads of the original tooling."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hub_server import LocalHub, serving
from images_world import jpeg, rows_of, sha256

from datacomp_core import hub
from datacomp_core.errors import DataError, StoreError
from datacomp_core.parts import SCHEMA
from datacomp_core.pool import ledger
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
from datacomp_core.pool.commonpool import HubPoolSpec, fetch_metadata
from datacomp_core.shards import read_index
from datacomp_core.store import Folder, Store
from datacomp_core.uid import uid_of


def parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        parts = {f"part_{n}/{n:032x}.parquet": parquet(rows_of([f"http://h/{n}/{i}" for i in range(5 + n)])) for n in range(4)}
        features = {name.replace(".parquet", ".npz"): b"npz" * 200 for name in parts}
        found.repositories["datasets/mlfoundations/datacomp_xlarge"] = {**parts, **features, "README.md": b"read me"}
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
        yield found


def test_nested_metadata_is_laid_flat_at_one_commit_through_a_bad_connection(server: LocalHub, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    first, second = sorted(server.repositories["datasets/mlfoundations/datacomp_xlarge"])[1:4:2]
    server.cut, server.busy = {first: 2}, {second: 2}
    pool = fetch_metadata(HubPoolSpec(scale="xlarge"), store=store)
    assert (pool.num_samples, pool.num_parts, pool.scale) == (5 + 6 + 7 + 8, 4, "xlarge")
    assert pool.content == server.commit("datasets/mlfoundations/datacomp_xlarge")
    metadata = store.folder(pool) / "metadata"
    assert sorted(metadata.files()) == sorted([*(f"{n:032x}.parquet" for n in range(4)), "hub.json"])
    for path, data in server.repositories["datasets/mlfoundations/datacomp_xlarge"].items():
        if path.endswith(".parquet"):
            assert metadata.read(path.split("/")[-1]) == data
    assert all(path.endswith(".parquet") for path in server.sent)


def test_features_come_when_asked_for(server: LocalHub, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    pool = fetch_metadata(HubPoolSpec(scale="xlarge", features="fetch"), store=store)
    assert len((store.folder(pool) / "metadata").files(".npz")) == 4


def test_metadata_is_complete_or_not_there_and_goes_on_where_it_stopped(server: LocalHub, tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path)), HubPoolSpec(scale="xlarge")
    broken = sorted(p for p in server.repositories["datasets/mlfoundations/datacomp_xlarge"] if p.endswith(".parquet"))[2]
    server.busy = {broken: 1000}
    with pytest.raises(StoreError, match="what was fetched is kept"):
        fetch_metadata(spec, store=store)
    assert store.record(fetch_metadata.address(spec)) is None
    before = dict(server.sent)
    server.busy = {}
    assert fetch_metadata(spec, store=store).num_samples == 26
    assert {path: server.sent[path] for path in before} == before


def test_a_file_that_is_not_the_hubs_is_refused(server: LocalHub, tmp_path: Path) -> None:
    server.changed = {next(iter(server.repositories["datasets/mlfoundations/datacomp_xlarge"]))}
    with pytest.raises(DataError, match="another hash than the hub states"):
        fetch_metadata(HubPoolSpec(scale="xlarge"), store=Store.open(str(tmp_path)))


def test_a_file_that_the_server_truncates_never_counts_as_there(server: LocalHub, tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path)), HubPoolSpec(scale="xlarge")
    server.truncated = {path for path in server.repositories["datasets/mlfoundations/datacomp_xlarge"] if "00002.parquet" in path}
    with pytest.raises(StoreError, match=r"it ended after \d+ of \d+ bytes"):
        fetch_metadata(spec, store=store)
    assert store.record(fetch_metadata.address(spec)) is None
    assert not list(tmp_path.rglob("*00002.parquet"))
    server.truncated = set()
    assert fetch_metadata(spec, store=store).num_samples == 26


def test_a_commit_is_fetched_as_it_was_and_needs_no_branch(server: LocalHub, tmp_path: Path) -> None:
    commit = server.commit("datasets/mlfoundations/datacomp_xlarge")
    pool = fetch_metadata(HubPoolSpec(scale="xlarge", revision=commit), store=Store.open(str(tmp_path)))
    assert pool.content == commit


def test_the_repositories_are_the_references() -> None:
    names = [HubPoolSpec(scale=scale).repository for scale in ("small", "xlarge", "datacomp_1b")]
    assert names == ["mlfoundations/datacomp_small", "mlfoundations/datacomp_xlarge", "mlfoundations/datacomp_1b"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_own_tables_become_a_pool_with_stable_uids(tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame(
        {"link": [f"http://h/{i}" for i in range(25)], "alt": [f'a "{i}", é\nb' for i in range(25)], "n": range(25)}
    )
    table = table.with_columns(link=pl.when(pl.col("n") != 7).then(pl.col("link")))
    source = tmp_path / "source/in/here"
    source.mkdir(parents=True)
    path = source / f"a.{kind}"
    if kind == "parquet":
        table.write_parquet(path)
    elif kind == "jsonl":
        table.write_ndjson(path)
    else:
        table.write_csv(path, separator="\t" if kind == "tsv" else ",")
    store = Store.open(str(tmp_path / "store"))
    spec = ByodPoolSpec(source=str(tmp_path / "source"), columns=Columns(url="link", text="alt"), rows_per_part=10)
    pool = import_pool(spec, store=store)
    assert (pool.num_samples, pool.num_parts, pool.counts["without_url"]) == (24, 3, 1)
    rows = pl.read_parquet(f"{store.folder(pool).url}/metadata/*.parquet")
    assert rows.schema == SCHEMA
    wanted = table.drop_nulls()
    assert rows["url"].to_list() == wanted["link"].to_list()
    assert rows["text"].to_list() == wanted["alt"].to_list()
    assert rows["uid"].to_list() == [uid_of(u, t) for u, t in wanted.select("link", "alt").iter_rows()]


def test_a_wrong_mapping_or_uid_names_file_and_column(tmp_path: Path) -> None:
    pl.DataFrame({"url": ["u"], "caption": ["c"], "id": ["12"]}).write_parquet(tmp_path / "a.parquet")
    store, source = Store.open(str(tmp_path / "store")), str(tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"no column 'text' for 'text'; it has url, caption, id\. Name the column with --text NAME"
    ):
        import_pool(ByodPoolSpec(source=source), store=store)
    with pytest.raises(DataError, match=r"a\.parquet has the uid '12'"):
        import_pool(ByodPoolSpec(source=source, columns=Columns(text="caption", uid="id")), store=store)


def original_download(root: Path, *, uids: bool) -> list[str]:
    """What img2dataset leaves: two shards of two candidates, one of which failed."""
    made: list[str] = []
    for shard in range(2):
        rows = []
        with tarfile.open(root / f"{shard:05d}.tar", "w") as archive:
            for number in range(2):
                key, url, text = f"{shard:05d}{number:04d}", f"http://h/{shard}/{number}", f"text {number}"
                uid, arrived = uid_of(url, text), (shard, number) != (1, 1)
                about = {"url": url, "key": key, "caption": text, **({"uid": uid} if uids else {})}
                rows.append(
                    {
                        **about,
                        "status": "success" if arrived else "failed_to_download",
                        "error_message": None if arrived else "HTTP Error 404: Not Found",
                    }
                )
                if not arrived:
                    continue
                made.append(uid)
                image = jpeg(number)
                for extension, data in (
                    ("jpg", image),
                    ("json", json.dumps({**about, "sha256": sha256(image)}).encode()),
                    ("txt", text.encode()),
                ):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        pl.DataFrame(rows).write_parquet(root / f"{shard:05d}.parquet")
    return made


@pytest.mark.parametrize("uids", [True, False])
def test_an_existing_download_is_taken_in_where_it_lies(tmp_path: Path, uids: bool) -> None:
    (tmp_path / "old/shards").mkdir(parents=True)
    made = original_download(tmp_path / "old/shards", uids=uids)
    before = {path: path.read_bytes() for path in (tmp_path / "old/shards").iterdir()}
    store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(tmp_path / "old"))
    if uids:
        (tmp_path / "old/metadata").mkdir()
        urls = [f"http://h/{s}/{n}" for s in range(2) for n in range(2)]
        texts = [f"text {n}" for s in range(2) for n in range(2)]
        names = [uid_of(url, text) for url, text in zip(urls, texts, strict=True)]
        rows_of(urls, uid=names, text=texts).write_parquet(tmp_path / "old/metadata/0.parquet")
    pool = adopt_metadata(spec, store=store)
    assert pool.num_samples == (4 if uids else 3)
    shards = adopt_shards(spec, pool, store=store)
    assert (shards.num_samples, shards.num_shards, shards.num_unique) == (3, 2, 3)
    assert shards.content == f"{ledger.digest(made):064x}"
    assert shards.counts == {"candidates": 4, "arrived": 3, "http_4xx": 1}
    there = store.folder(shards)
    assert there.path == tmp_path / "old/shards"
    assert {path: path.read_bytes() for path in before} == before
    assert [u for name in ("00000", "00001") for u in read_index(there, name)["uid"]] == made
    assert not list((tmp_path / "store").rglob("*.tar"))
    assert adopt_shards.run(spec, pool, store=store).status == "reused"


def test_a_damaged_tar_is_not_adopted(tmp_path: Path) -> None:
    original_download(tmp_path, uids=True)
    path = tmp_path / "00001.tar"
    path.write_bytes(path.read_bytes()[:1200])
    store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(tmp_path))
    with pytest.raises(DataError, match=r"00001\.tar is damaged"):
        adopt_metadata(spec, store=store)


@pytest.mark.s3
def test_tables_and_a_download_in_a_bucket_are_taken_in(tmp_path: Path, s3_url: str) -> None:
    store, bucket = Store.open(f"{s3_url}/store"), Folder(f"{s3_url}/old")
    made = original_download(tmp_path, uids=True)
    for path in tmp_path.iterdir():
        bucket.write(f"shards/{path.name}", path.read_bytes())
    urls = [f"http://h/{s}/{n}" for s in range(2) for n in range(2)]
    names = [uid_of(url, f"text {n % 2}") for n, url in enumerate(urls)]
    bucket.write("metadata/0.parquet", parquet(rows_of(urls, uid=names)))
    spec = AdoptedPoolSpec(source=bucket.url)
    shards = adopt_shards(spec, adopt_metadata(spec, store=store), store=store)
    assert shards.counts == {"candidates": 4, "arrived": 3, "http_4xx": 1}
    assert [u for name in ("00000", "00001") for u in read_index(store.folder(shards), name)["uid"]] == made
    bucket.write("tables/a.jsonl", b'{"url": "http://h/1", "text": "one"}\n{"url": "http://h/2", "text": "two"}\n')
    assert import_pool(ByodPoolSpec(source=f"{bucket.url}/tables"), store=store).num_samples == 2
