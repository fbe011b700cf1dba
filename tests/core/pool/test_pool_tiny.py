"""The embedded pool: DataComp's schema, the same bytes from the same seed, dirty in known proportions."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from PIL import Image

from datacomp_core.artifacts import Pool
from datacomp_core.parts import SCHEMA, part_names
from datacomp_core.pool.tiny import TinyPoolSpec, build_tiny_pool
from datacomp_core.pool.tiny_pairs import DRAWING_CAPTIONS, SHARES
from datacomp_core.store import Folder, Store
from datacomp_core.uid import uid_of

NUM_PAIRS = 1_500


class Built(NamedTuple):
    pool: Pool
    folder: Folder
    rows: pl.DataFrame
    truth: pl.DataFrame
    origin: dict[str, bytes]


def build(home: Path, seed: int) -> Built:
    store = Store(Folder(home))
    pool = build_tiny_pool(TinyPoolSpec(seed=seed, num_pairs=NUM_PAIRS, num_parts=4), store=store)
    folder = store.folder(pool)
    metadata = folder / "metadata"
    rows = pl.concat([pl.read_parquet(metadata.at(f"{part}.parquet")) for part in part_names(metadata)])
    origin = pl.read_parquet(folder.at("origin.parquet"))
    images = dict(zip(origin["path"], origin["image"], strict=True))
    return Built(pool, folder, rows, pl.read_parquet(folder.at("truth.parquet")), images)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("pool"), seed=0)


def path_of(url: str) -> str:
    return url.removeprefix("http://tiny.datacomp.invalid")


def test_the_metadata_has_datacomps_schema(built: Built) -> None:
    assert built.rows.schema == SCHEMA
    assert len(built.rows) == built.pool.num_samples == NUM_PAIRS
    assert part_names(built.folder / "metadata") == [f"{number:08d}" for number in range(4)]
    assert built.rows["clip_l14_similarity_score"].null_count() == NUM_PAIRS
    assert built.rows["face_bboxes"].list.len().sum() == 0
    assert built.rows["uid"].str.contains("^[0-9a-f]{32}$").all()
    assert built.rows["uid"].n_unique() == built.rows["url"].n_unique() == NUM_PAIRS
    for uid, url, text in built.rows.select("uid", "url", "text").head(20).iter_rows():
        assert uid == uid_of(url, text)


def test_size_and_hash_are_what_the_crawler_saw(built: Built) -> None:
    fate = dict(built.truth.select("uid", "url_is").iter_rows())
    changed = 0
    for row in built.rows.iter_rows(named=True):
        served = built.origin.get(path_of(row["url"]))
        assert (served is None) == (fate[row["uid"]] == "dead")
        if served is None:
            continue
        assert Image.open(io.BytesIO(served)).size == (row["original_width"], row["original_height"])
        same = hashlib.sha256(served).hexdigest() == row["sha256"]
        assert same == (fate[row["uid"]] == "alive")
        changed += not same
    assert changed > 0


def test_the_same_seed_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    again = build(tmp_path, seed=0)
    names = built.folder.files(".parquet")
    assert len(names) == 6
    for name in names:
        assert again.folder.read(name) == built.folder.read(name), name


def test_another_seed_gives_another_pool(built: Built, tmp_path: Path) -> None:
    other = build(tmp_path, seed=1)
    assert not set(other.rows["uid"]) & set(built.rows["uid"])
    assert other.rows["text"].to_list() != built.rows["text"].to_list()
    assert sorted(other.truth["key"]) != sorted(built.truth["key"])


def test_kinds_come_in_the_stated_shares(built: Built) -> None:
    kinds = Counter(built.truth["kind"])
    for kind in ("near_duplicate", "clipart", "words"):
        assert kinds[kind] == int(SHARES[kind] * NUM_PAIRS)
        assert built.pool.counts[kind] == kinds[kind]
    drawn = sum(kinds[kind] for kind in DRAWING_CAPTIONS)
    assert drawn == NUM_PAIRS - sum(kinds[kind] for kind in SHARES)
    for kind, share in DRAWING_CAPTIONS.items():
        assert kinds[kind] / drawn == pytest.approx(share, abs=0.06)
    sizes = built.rows.select(
        small=pl.max_horizontal("original_width", "original_height") <= 24,
        wide=pl.col("original_width") > 3 * pl.col("original_height"),
    )
    assert sizes["small"].mean() == pytest.approx(0.07, abs=0.03)
    assert sizes["wide"].sum() >= (built.truth["shape"] == "banner").sum() > 0
    assert (built.truth["url_is"] == "dead").mean() == pytest.approx(0.03, abs=0.015)


def test_many_captions_are_in_other_languages(built: Built) -> None:
    translated = built.truth.filter(kind="translation")
    assert translated["lang"].n_unique() > 15
    texts = built.rows.join(translated, on="uid")["text"]
    assert texts.str.contains(r"\p{Cyrillic}|\p{Han}|\p{Arabic}|\p{Hiragana}|\p{Katakana}").mean() > 0.2


def test_nothing_but_truth_tells_the_truth(built: Built) -> None:
    """A filter that may read urls, sizes and hashes does not learn the kind of a pair from a name in them."""
    assert built.rows["url"].str.contains(r"^http://tiny\.datacomp\.invalid/0/[0-9a-f]{2}/[0-9a-f]{16}\.(webp|jpg)$").all()
    suffix = built.rows.join(built.truth, on="uid").with_columns(jpg=pl.col("url").str.ends_with(".jpg"))
    shares = dict(
        suffix.filter(pl.col("kind").is_in(list(DRAWING_CAPTIONS))).group_by("kind").agg(pl.col("jpg").mean()).iter_rows()
    )
    assert max(shares.values()) - min(shares.values()) < 0.12


def test_the_sources_are_attributed() -> None:
    from datacomp_core.pool.tiny_source import DATA, drawings

    text = (DATA / "LICENSES.md").read_text()
    for source in {drawing.source for drawing in drawings()}:
        assert f"| `{source}` |" in text
    for needed in ("Apache-2.0", "CC-BY-4.0", "Copyright (c) Microsoft Corporation", "UNICODE LICENSE V3", "CC-PDDC"):
        assert needed in text
