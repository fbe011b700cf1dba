"""Comparison of entries: overlap against a brute-force count, deltas and what only one side chose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import board_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.board import composition
from datacomp_core.leaderboard.board.board import entries
from datacomp_core.leaderboard.board.compare import compare_methods, contenders
from datacomp_core.leaderboard.board.sample import draw
from datacomp_core.store import Folder, Store
from datacomp_core.subset_files import SubsetFile, overlap, rows_below


def write(folder: Folder, counts: Counter[str]) -> Folder:
    folder.write("subset.npy", uid.subset_bytes(uid.pack(pl.Series(sorted(counts.elements()), dtype=pl.String))))
    return folder


def draw_counts(seed: int, size: int) -> Counter[str]:
    """Uids that share their first half often, with repeats up to 11."""
    noise = np.random.default_rng(seed)
    pool = [f"{i // 4:016x}{i % 4:016x}" for i in range(120)]
    return Counter({pool[i]: int(noise.integers(1, 12)) for i in noise.choice(120, size, replace=False)})


@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
@pytest.mark.parametrize(("size_a", "size_b"), [(0, 0), (0, 30), (50, 60), (120, 1), (100, 100)])
def test_overlap_is_that_of_two_counters(tmp_path: Path, chunk: int, size_a: int, size_b: int) -> None:
    a, b = draw_counts(1, size_a), draw_counts(2, size_b)
    found = overlap(*(SubsetFile(write(Folder(tmp_path / name), rows)) for name, rows in (("a", a), ("b", b))), chunk=chunk)
    assert found.total == (a.total(), b.total())
    assert found.unique == (len(a), len(b))
    assert found.shared == len(a.keys() & b.keys())
    assert found.shared_repeats == (a & b).total()
    assert found.largest == (max(a.values(), default=0), max(b.values(), default=0))
    assert found.only_first == sorted(a.keys() - b.keys())
    assert found.only_second == sorted(b.keys() - a.keys())
    either = (a | b).total()
    assert found.weighted_jaccard == pytest.approx((a & b).total() / either if either else 1.0)
    assert found.jaccard == pytest.approx(len(a.keys() & b.keys()) / len(a.keys() | b.keys()) if either else 1.0)


def test_what_is_no_subset_file_is_refused(tmp_path: Path) -> None:
    good, bad = write(Folder(tmp_path / "a"), draw_counts(1, 5)), Folder(tmp_path / "b")
    bad.write("subset.npy", b"not one")
    with pytest.raises(DataError, match="not a subset file"):
        overlap(SubsetFile(good), SubsetFile(bad))
    bad.write("subset.npy", good.read("subset.npy")[:-3])
    with pytest.raises(DataError, match="truncated"):
        overlap(SubsetFile(good), SubsetFile(bad))


def test_methods_side_by_side(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    world.sweep(store, seeds=2)
    made = compare_methods(store, contenders(store, "tiny", ["no_filter", "clip_score", "random"]))
    assert made.names == ["no_filter", "clip_score", "random"]
    assert [len(addresses) for addresses in made.addresses] == [2, 2, 2]
    means = {
        name: {task: sum(world.results(world.CENTERS[name], seed)[task] or 0 for seed in range(2)) / 2 for task in world.TASKS}
        for name in made.names
    }
    for line in made.tasks:
        assert line.values == pytest.approx([means[name][line.key.removeprefix("tiny/")] for name in made.names])
    assert made.verdicts[0] is not None
    assert made.verdicts[0].outcome == "better"
    assert [(d.first, d.second) for d in made.differences] == [
        ("no_filter", "clip_score"),
        ("no_filter", "random"),
        ("clip_score", "random"),
    ]
    chosen = {name: {world.row_uid(i) for i in range(world.NUM) if world.is_kept(name, i)} for name in made.names}
    for found in made.differences:
        first, second = chosen[found.first], chosen[found.second]
        assert found.overlap.shared == len(first & second)
        assert found.overlap.jaccard == pytest.approx(len(first & second) / len(first | second))
        assert {pair.uid for pair in found.only_first} == set(sorted(first - second)[:24])
        assert {pair.uid for pair in found.only_second} == set(sorted(second - first)[:24])
    captions = {world.row_uid(i): world.caption(i) for i in range(world.NUM)}
    assert all(pair.text == captions[pair.uid] for pair in made.differences[0].only_first)


def test_the_make_up_is_that_of_the_rows(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    world.sweep(store, seeds=1)
    made = compare_methods(store, contenders(store, "tiny", ["no_filter", "clip_score"])).makeup
    assert made is not None
    assert (made.num_sampled, made.num_pool) == (world.NUM, world.NUM)
    groups = {group.name: group for group in made.groups}
    assert {name: group.num_rows for name, group in groups.items()} == {
        "pool": world.NUM,
        "no_filter": world.NUM,
        "clip_score": sum(world.is_kept("clip_score", i) for i in range(world.NUM)),
    }
    kept = [i for i in range(world.NUM) if world.is_kept("clip_score", i)]
    for name, numbers in (("pool", range(world.NUM)), ("clip_score", kept)):
        lengths, scores = [len(world.caption(i)) for i in numbers], [world.score_of(i) for i in numbers]
        assert groups[name].measures["caption, characters"].median == np.quantile(lengths, 0.5)
        assert groups[name].scores["clip_score"].low == pytest.approx(np.quantile(scores, 0.1))
        assert sum(groups[name].histograms["clip_score"]) == len(scores)
        assert groups[name].hosts == [composition.ValueShare(value="world.invalid", share=1.0)]
        assert groups[name].languages[0].value == "en"
        assert groups[name].measures["image, aspect ratio"].high == 1
    assert groups["clip_score"].words[0].value in ("drawing", "number", "thing")


def test_words_that_tell_two_groups_apart() -> None:
    first = pl.Series([f"a red fox {i}" for i in range(80)] + ["the dog"] * 20)
    second = pl.Series([f"a blue bird {i}" for i in range(80)] + ["the dog"] * 20)
    found = composition.contrast(first, second)
    assert {word.value for word in found if word.log_odds > 0} == {"red", "fox"}
    assert {word.value for word in found if word.log_odds < 0} == {"blue", "bird"}
    assert all((word.first, word.second) in ((0.8, 0), (0, 0.8)) for word in found)
    assert composition.contrast(first, first) == []
    assert composition.contrast(first.clear(), first.clear()) == []


def test_a_sample_is_a_share_of_the_pool_and_exact_on_it(tmp_path: Path) -> None:
    """Of a pool larger than the sample: the rows with the lowest uids, with each subset's own multiplicities."""
    store = Store.open(str(tmp_path))
    world.sweep(store, seeds=1)
    found = {entry.method: entry for _, entry in entries(store)}
    drawn = draw(store, found, max_rows=30)
    assert drawn is not None
    lowest = sorted(world.row_uid(i) for i in range(world.NUM))
    got = drawn.rows["uid"].to_list()
    assert got == lowest[: len(got)]
    assert 15 <= len(got) <= 45
    number = {world.row_uid(i): i for i in range(world.NUM)}
    for name in found:
        assert drawn.chosen(name)["uid"].to_list() == [u for u in got if world.is_kept(name, number[u])]


@pytest.mark.parametrize("chunk", [3, 50, 1 << 20])
def test_rows_below_are_the_beginning_of_a_subset(tmp_path: Path, chunk: int) -> None:
    counts = draw_counts(1, 60)
    folder = write(Folder(tmp_path), counts)
    for high in (None, 0, 7, 16, 10**6):
        taken = uid.unpack(rows_below(SubsetFile(folder), high, chunk=chunk)).to_list()
        assert taken == [u for u in sorted(counts.elements()) if high is None or int(u[:16], 16) < high]


def test_only_entries_of_one_suite_can_be_compared(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    first = world.run(store, "no_filter", world.results(0.05, 0))
    other = world.run(store, "no_filter", world.results(0.05, 0), version=2)
    with pytest.raises(SpecError, match="tiny v1"):
        compare_methods(store, contenders(store, "tiny", [first.address, other.fingerprint]))
    record = store.record(first.address)
    assert record is not None
    with pytest.raises(SpecError, match="name leaderboard entries"):
        contenders(store, "tiny", [record.inputs["subset"][0]["address"]])
    with pytest.raises(SpecError, match="Unknown method 'no_filtre'"):
        contenders(store, "tiny", ["no_filtre"])
    with pytest.raises(SpecError, match="two or more"):
        compare_methods(store, contenders(store, "tiny", [first.address]))


def test_a_name_that_stands_in_both_tracks_is_never_guessed(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    world.run(store, "no_filter", world.results(0.1, 0))
    world.run(store, "no_filter", world.results(0.2, 0), pool_spec=world.WorldPoolSpec(scale="byod"))
    with pytest.raises(SpecError, match="'no_filter' names 2 rows of the board: give --track") as told:
        contenders(store, "tiny", ["no_filter"])
    for track in ("filtering", "byod"):
        [one] = contenders(store, "tiny", ["no_filter"], track)
        assert one.row.track == track
        assert f"{one.row.key} ({track})" in str(told.value)
        assert contenders(store, "tiny", [one.row.key])[0].row.track == track
    with pytest.raises(SpecError, match="Unknown track 'byo'"):
        contenders(store, "tiny", ["no_filter"], "byo")
