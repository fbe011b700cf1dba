"""A download of a small bad web: what arrives, what is lost and why. Real img2dataset over a real server."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from images_world import LOOPBACK, jpeg, rows_of, sha256, untimed, web, write_pool
from PIL import Image

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError, IncompleteError, SpecError
from datacomp_core.pool import ledger
from datacomp_core.pool.download_images import ImageSpec, download_images, images_of, plan_shards
from datacomp_core.shards import index_shard, read_index
from datacomp_core.store import Folder, Store

SPEC = ImageSpec(image_size=64, samples_per_shard=10, timeout_seconds=1, retries=1, exif="drop")

BAD = {
    "/status/404": "http_4xx",
    "/status/410": "http_4xx",
    "/status/503": "http_5xx",
    "/html/1.jpg": "not_an_image",
    "/empty/1.jpg": "not_an_image",
    "/noai/1.jpg": "opted_out",
    "/cut/1.jpg": "cut_off",
    "/slow/1.jpg": "timeout",
    "http://127.0.0.1:1/x.jpg": "refused",
    "http://no.such.host.invalid/x.jpg": "dns",
    "gopher:nothing": "bad_url",
}


@dataclass(frozen=True)
class Downloaded:
    store: Store
    folder: Path
    shards: ShardSet
    rows: pl.DataFrame
    ledger: pl.DataFrame
    hits: Counter[str]
    base: str


def members(path: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            file = archive.extractfile(member)
            assert file is not None
            found.setdefault(key, {})[extension] = file.read()
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Downloaded]:
    root = tmp_path_factory.mktemp("store")
    store = Store.open(str(root))
    with web() as (base, hits):
        good = [f"{base}/ok/{number}.jpg" for number in range(12)]
        bad = [url if ":" in url else base + url for url in BAD]
        hashes = [sha256(jpeg(0)), "0" * 64, *[None] * 10]
        first = rows_of(good[:8] + bad, sha256=hashes[:8] + [None] * len(bad), face_bboxes=[[[0.1, 0.1, 0.6, 0.6]]] + [[]] * 18)
        pool = write_pool(root / "pool", [first, rows_of(good[8:])])
        shards = download_images(SPEC, pool, store=store, workers=1, threads=8, open_networks=LOOPBACK)
        folder = store.folder(shards).path
        book = pl.concat([pl.read_parquet(path) for path in sorted((folder / "ledger").iterdir())])
        yield Downloaded(store, folder, shards, pl.concat([first, rows_of(good[8:])]), book, hits, base)


def test_every_candidate_has_a_row_with_the_reason_it_was_lost_for(done: Downloaded) -> None:
    assert done.ledger["uid"].to_list() == done.rows["uid"].to_list()
    assert done.ledger.schema == ledger.SCHEMA
    reasons = dict(zip(done.rows["url"], done.ledger["reason"], strict=True))
    assert reasons == {**dict.fromkeys(reasons, None), **{u if ":" in u else done.base + u: reason for u, reason in BAD.items()}}
    http = done.ledger.filter(pl.col("http_status").is_not_null())["http_status"].to_list()
    assert http == [404, 410, 503]
    wanted = Counter(BAD.values()) | {"arrived": 12, "candidates": 23, "hash_mismatches": 1}
    assert done.shards.counts == wanted
    assert done.hits["/status/503"] == 2  # one try, one retry


def test_what_arrived_is_in_the_shards_resized_with_caption_and_uid(done: Downloaded) -> None:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(done.folder.glob("*.tar")):
        found |= members(path)
    arrived = done.ledger.filter(pl.col("reason").is_null())
    assert list(found) == arrived["key"].to_list()
    text = dict(done.rows.select("uid", "text").iter_rows())
    for (uid, size), sample in zip(arrived.select("uid", "bytes").iter_rows(), found.values(), strict=True):
        assert list(sample) == ["jpg", "json", "txt"]
        assert json.loads(sample["json"])["uid"] == uid
        assert sample["txt"].decode() == text[uid]
        assert Image.open(io.BytesIO(sample["jpg"])).size == (64, 43)
        assert len(sample["jpg"]) == size
    assert done.shards.num_samples == done.shards.num_unique == 12


def test_boxes_are_blurred(done: Downloaded) -> None:
    blurred = next(iter(members(done.folder / "00000000.tar").values()))["jpg"]
    sharp = Image.open(io.BytesIO(jpeg(0))).resize((64, 43), Image.Resampling.BOX)
    difference = np.abs(np.asarray(Image.open(io.BytesIO(blurred)), int) - np.asarray(sharp, int))
    assert difference[8:24, 10:36].mean() > 2 * difference[36:, 50:].mean()


def test_hashes_are_recorded_and_a_mismatch_is_kept(done: Downloaded) -> None:
    assert done.ledger["hash"].to_list()[:3] == ["match", "mismatch", None]
    assert done.ledger["reason"][1] is None
    assert done.ledger["sha256"].to_list()[:2] == [sha256(jpeg(0)), sha256(jpeg(1))]


def test_shards_are_cut_and_indexed(done: Downloaded) -> None:
    names = sorted(path.name for path in done.folder.glob("*.tar"))
    assert names == ["00000000.tar", "00000001.tar", "00000002.tar"]  # 19 rows of the first part, 4 of the second
    for name in names:
        shard = name.removesuffix(".tar")
        assert read_index(Folder(done.folder), shard).equals(index_shard(Folder(done.folder), shard).whole())
        stats = json.loads((done.folder / f"{shard}_stats.json").read_text())
        assert stats["successes"] == read_index(Folder(done.folder), shard).height
        assert stats["count"] == stats["successes"] + stats["failed_to_download"] + stats["failed_to_resize"]


def test_content_is_the_digest_of_the_uids_that_arrived(done: Downloaded) -> None:
    arrived = done.ledger.filter(pl.col("reason").is_null())["uid"].to_list()
    assert done.shards.content == f"{ledger.digest(reversed(arrived)):064x}"
    assert done.shards.content != f"{ledger.digest(arrived[1:]):064x}"
    both = (ledger.digest(arrived[:5]) + ledger.digest(arrived[5:])) % ledger.DIGEST_MODULUS
    assert both == ledger.digest(arrived)


def test_nothing_arrived_is_an_error(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    pool = write_pool(tmp_path / "pool", [rows_of([f"http://127.0.0.1:1/{number}.jpg" for number in range(3)])])
    with pytest.raises(IncompleteError, match=r"Only 0 of 3 images arrived \(refused 3\)"):
        download_images(SPEC, pool, store=store, open_networks=LOOPBACK)
    assert not list(tmp_path.glob("shards/**/_artifact.json"))


def broken(rows: pl.DataFrame, fault: str, path: Path) -> None:
    if fault == "no parquet":
        path.write_bytes(b"PAR1 this is none")
    else:
        rows.drop(fault).write_parquet(path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no parquet", r"00000000\.parquet cannot be read as parquet"),
        ("url", "has no column 'url'"),
        ("face_bboxes", "has no column 'face_bboxes'"),
    ],
)
def test_metadata_that_cannot_be_used_is_told_before_anything_starts(tmp_path: Path, fault: str, words: str) -> None:
    rows = rows_of(["http://127.0.0.1:1/x.jpg"])
    pool = write_pool(tmp_path / "pool", [rows])
    broken(rows, fault, tmp_path / "pool/metadata/00000000.parquet")
    with pytest.raises(DataError, match=words):
        download_images(SPEC, pool, store=Store.open(str(tmp_path)))


def test_plan_numbers_shards_through_the_parts(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", [rows_of([f"u{i}" for i in range(n)]) for n in (25, 10, 1)])
    plans = [(p.number, p.part, p.first, p.count) for p in plan_shards(Folder(tmp_path / "pool/metadata"), SPEC)]
    first, second, third = "00000000", "00000001", "00000002"
    assert plans == [(0, first, 0, 10), (1, first, 10, 10), (2, first, 20, 5), (3, second, 0, 10), (4, third, 0, 1)]


def test_a_pool_may_lack_hashes_and_the_reference_defaults_hold(tmp_path: Path) -> None:
    rows = rows_of(["u"]).drop("sha256")
    write_pool(tmp_path / "pool", [rows])
    assert len(list(plan_shards(Folder(tmp_path / "pool/metadata"), SPEC))) == 1
    default = images_of("medium")
    assert (default.image_size, default.resize_mode, default.resize, default.encode_format) == (
        512,
        "keep_ratio_largest",
        "only_if_bigger",
        "jpg",
    )
    assert (default.samples_per_shard, default.retries, default.faces, default.encode_quality) == (10_000, 2, "blur", 95)
    with pytest.raises(SpecError, match="Did you mean 'medium'"):
        images_of("mediun")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("HTTP Error 403: Forbidden", "http_4xx"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("<urlopen error [Errno 113] No route to host>", "unreachable"),
        ("<urlopen error timed out>", "timeout"),
        ("Remote end closed connection without response", "cut_off"),
        ("IncompleteRead(10 bytes read, 5 more expected)", "cut_off"),
        ("image area too large", "too_many_pixels"),
        ("Image decoding error", "not_an_image"),
        ("something nobody has seen", "other"),
        ("", "internal"),
    ],
)
def test_reasons(message: str, reason: str) -> None:
    assert ledger.reason_of(message) == reason


def download_of(pool: Pool, store: Store, **options: Any) -> ShardSet:
    return download_images(SPEC, pool, store=store, open_networks=LOOPBACK, **options)


@pytest.mark.s3
def test_straight_to_a_bucket(done: Downloaded, s3_url: str) -> None:
    store = Store.open(s3_url)
    for part in sorted((done.folder.parents[3] / "pool/metadata").iterdir()):
        store.root.write(f"pool/metadata/{part.name}", part.read_bytes())
    pool = Pool(scale="tiny", name="web", data="pool", fingerprint="f" * 64, num_samples=23, num_parts=2)
    made = download_of(pool, store)
    there = store.folder(made)
    assert made.content == done.shards.content
    ours = {str(path.relative_to(done.folder)): path.read_bytes() for path in done.folder.rglob("*") if path.is_file()}
    theirs = {name: there.read(name) for name in there.files()}
    assert {name: data for name, data in theirs.items() if not name.startswith("ledger/")} == {
        name: data for name, data in ours.items() if not name.startswith("ledger/")
    }
    for name in ("ledger/00000000.parquet", "ledger/00000001.parquet"):
        assert untimed(theirs[name]).equals(untimed(ours[name]))
