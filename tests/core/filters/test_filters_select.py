"""`select` and `select_subset`: files, samples, resuming from nothing, plain folders, buckets, and bad input."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import filter_world as world
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.filters import Everything, RandomFraction, SampleTo, Threshold, TopFraction, Words
from datacomp_core.sampling_key import sampling_keys
from datacomp_core.selection.select import SubsetSpec, load_recipe, select
from datacomp_core.sorted_runs import merge, write_run
from datacomp_core.store import Folder


def test_every_row_is_accounted_for_and_shown_samples_are_true(tmp_path: Path) -> None:
    table = world.rows(5, number=900)
    by_uid = {row["uid"]: row for row in table}
    found, done = world.kept(TopFraction(score="b32", fraction=0.4), world.write(tmp_path / "m", table), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert told["kept"] == len(found) == done.num_samples
    assert told["kept"] + sum(told["dropped"].values()) == told["rows"] == 900
    kept, dropped = (pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("kept", "dropped"))
    assert len(kept) == len(dropped) == 200
    assert set(kept["uid"]) <= set(found)
    assert not set(dropped["uid"]) & set(found)
    assert set(dropped["reason"]) == set(told["dropped"])
    for row in [*kept.iter_rows(named=True), *dropped.iter_rows(named=True)]:
        assert (row["text"], row["score"]) == (by_uid[row["uid"]]["text"], by_uid[row["uid"]]["clip_b32_similarity_score"])


def test_the_histogram_is_numpys_and_its_cut_parts_kept_from_dropped(tmp_path: Path) -> None:
    table = world.rows(6)
    world.kept(TopFraction(score="b32", fraction=0.3), world.write(tmp_path / "m", table), tmp_path / "out")
    drawn = json.loads((tmp_path / "out" / "histogram.json").read_text())
    scores = [row["clip_b32_similarity_score"] for row in table if row["clip_b32_similarity_score"] is not None]
    assert drawn["counts"] == np.histogram(scores, bins=np.array(drawn["edges"]))[0].tolist()
    assert sum(drawn["counts"]) == len(scores)
    assert sum(drawn["kept"]) == sum(score >= drawn["cut"] for score in scores) == int(300 * 0.3) + 1


def test_repeated_uids_stay_repeated(tmp_path: Path) -> None:
    table = world.rows(7)
    table += table[:50]
    found, done = world.kept(Everything(), world.write(tmp_path / "m", table), tmp_path / "out")
    assert found == sorted(row["uid"] for row in table)
    assert (done.num_samples, done.num_unique) == (350, 300)


def test_random_is_a_share_by_lot_and_nested_in_a_larger_one(tmp_path: Path) -> None:
    table = world.rows(8, number=1000)
    folder = world.write(tmp_path / "m", table)
    small, _ = world.kept(RandomFraction(share=0.1, seed=3), folder, tmp_path / "a")
    large, _ = world.kept(RandomFraction(share=0.5, seed=3), folder, tmp_path / "b")
    other, _ = world.kept(RandomFraction(share=0.5, seed=4), folder, tmp_path / "c")
    assert (len(small), len(large)) == (100, 500)
    assert set(small) < set(large)
    assert 180 < len(set(large) & set(other)) < 320
    spread = sampling_keys(uid.pack(pl.Series([row["uid"] for row in table])), 3).astype(np.float64) / 2**64
    assert abs(spread.mean() - 0.5) < 0.04
    assert np.histogram(spread, 10, (0, 1))[0].min() > 60


@pytest.mark.parametrize(
    ("wanted", "times", "expected"), [(40, 1, 40), (300, 1, 300), (500, 1, 300), (700, 5, 700), (700, 2, 600)]
)
def test_a_sample_has_the_wanted_size_and_repeats_evenly(wanted: int, times: int, expected: int, tmp_path: Path) -> None:
    table = world.rows(9)
    tree = SampleTo(filter=Everything(), num_samples=wanted, at_most_times=times)
    found, done = world.kept(tree, world.write(tmp_path / "m", table), tmp_path / "out")
    counts = Counter(found)
    assert len(found) == done.num_samples == expected
    assert max(counts.values()) - min(counts.values()) <= 1
    assert max(counts.values()) <= times


def test_a_sample_is_drawn_from_what_its_filter_keeps(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", world.rows(10))
    allowed, _ = world.kept(Words(at_least=4), folder, tmp_path / "a")
    found, done = world.kept(SampleTo(filter=Words(at_least=4), num_samples=50), folder, tmp_path / "b")
    assert len(found) == 50
    assert set(found) < set(allowed)
    assert done.explanation.dropped["fewer than 4 words"] > 0


def test_merging_in_slices_gives_the_bytes_of_the_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    runs = []
    for number in range(5):
        packed = np.empty(number * 400, uid.DTYPE)
        packed["f0"], packed["f1"] = random.integers(0, 2**64, (2, len(packed)), np.uint64)
        packed["f0"][: number * 20] = 2**63  # the edge of a slice
        write_run(tmp_path / f"{number}.npy", packed)
        runs.append(packed)
    for slice_rows in (100, 1 << 20):
        total, num_unique = merge([tmp_path / f"{n}.npy" for n in range(5)], tmp_path / "subset.npy", slice_rows)
        whole = np.concatenate(runs)
        assert (tmp_path / "subset.npy").read_bytes() == uid.subset_bytes(whole)
        assert (total, num_unique) == (len(whole), len(np.unique(whole)))


def test_a_dry_run_writes_nothing_and_counts_the_same(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", world.rows(11))
    recipe = load_recipe("basic_tiny")
    before = sorted(tmp_path.rglob("*"))
    dry = select(recipe, folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert dry.explanation == select(recipe, folder, out=Folder(tmp_path / "out")).explanation


def test_a_part_that_an_earlier_attempt_judged_is_not_judged_again(tmp_path: Path) -> None:
    folder, kept = world.write(tmp_path / "m", world.rows(15)), Folder(tmp_path / "kept")
    recipe = load_recipe("clip_score:score=b32,fraction=0.4")
    whole = select(recipe, folder, out=Folder(tmp_path / "a"), kept=kept)
    assert len(kept.files(".json")) == 4
    kept.remove("00000001.json")  # what a killed run leaves: a run without its account
    kept.write("00000002.npy", (tmp_path / "kept" / "00000003.npy").read_bytes())
    again = select(recipe, folder, out=Folder(tmp_path / "b"), kept=kept)
    assert again.explanation == whole.explanation
    third = np.load(tmp_path / "kept" / "00000003.npy")
    found = uid.read_subset((tmp_path / "b" / "subset.npy").read_bytes(), "b")
    assert (np.isin(found, third).sum(), len(third) > 0) == (2 * len(third), True)


def test_scores_beside_the_metadata(tmp_path: Path) -> None:
    table = world.rows(12)
    folder = world.write(tmp_path / "m", table)
    (tmp_path / "scores").mkdir()
    for part in sorted((tmp_path / "m").iterdir()):
        uids = pl.read_parquet(part, columns=["uid"])
        mine = uids.with_columns(pl.col("uid").str.slice(0, 4).str.to_integer(base=16).cast(pl.Float32).alias("mine"))
        mine.write_parquet(tmp_path / "scores" / part.name)
    recipe = SubsetSpec(recipe="own", filter=Threshold(score="mine", at_least=40_000))
    select(recipe, folder, [Folder(tmp_path / "scores")], out=Folder(tmp_path / "out"))
    found = uid.unpack(uid.read_subset((tmp_path / "out" / "subset.npy").read_bytes(), "it")).to_list()
    assert found == sorted(row["uid"] for row in table if int(row["uid"][:4], 16) >= 40_000)


def test_bad_input_is_told_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    folder, out = world.write(tmp_path / "m", world.rows(13)), Folder(tmp_path / "out")
    with pytest.raises(DataError, match="'clip_tiny_similarity_score' is not in part 00000000 .*there are uid, text"):
        select(load_recipe("clip_score_tiny"), folder, out=out)
    with pytest.raises(DataError, match="has no metadata"):
        select(load_recipe("no_filter"), Folder(tmp_path / "nowhere"), out=out)
    (tmp_path / "m" / "00000002.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"00000002\.parquet cannot be read"):
        select(load_recipe("no_filter"), folder, out=out)
    assert not (tmp_path / "out" / "subset.npy").exists()
    short = world.write(tmp_path / "short", [{**world.rows(1, 1)[0], "uid": "abc"}], 1)
    with pytest.raises(DataError, match="'abc' is not a uid"):
        select(load_recipe("no_filter"), short, out=out)


def test_text_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    data = pa.array([b"a photo of a dog", b"a lone \xed\xa0\x80 surrogate"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(data), data.buffers())
    pq.write_table(pa.table({"uid": ["0" * 32, "1" * 32], "text": text}), tmp_path / "00000000.parquet")
    with pytest.raises(DataError, match=r"00000000\.parquet cannot be read .*invalid UTF-8"):
        select(load_recipe("english"), Folder(tmp_path))


@pytest.mark.s3
def test_from_and_to_a_bucket(s3_url: str, tmp_path: Path) -> None:
    local = world.write(tmp_path / "m", world.rows(14))
    remote = Folder(s3_url) / "metadata"
    for name in local.files():
        remote.write(name, local.read(name))
    recipe = load_recipe("basic_tiny")
    select(recipe, local, out=Folder(tmp_path / "out"))
    select(recipe, remote, out=Folder(s3_url) / "out", workers=2)
    assert (Folder(s3_url) / "out").read("subset.npy") == (tmp_path / "out" / "subset.npy").read_bytes()
