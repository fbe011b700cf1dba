"""The rules on data that break them, and the roles that a filter gives a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import board_world as world
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.artifacts import Embeddings, Pool, ShardSet, Subset
from datacomp_core.leaderboard.board import findings
from datacomp_core.leaderboard.board.board import board, entries
from datacomp_core.leaderboard.entries import data_check, placement
from datacomp_core.leaderboard.entries.make_entry import EntrySpec, enter
from datacomp_core.leaderboard.entries.roles import role
from datacomp_core.store import Folder, Store, step


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def checks(store: Store) -> dict[str, Any]:
    [(_, entry)] = entries(store)
    return {check.rule: check for check in entry.checks}


@step("subsets", version=1)
def foreign_subset(spec: world.WorldSubsetSpec, pool: Pool, embeddings: Embeddings, *, out: Folder) -> Subset:
    """Two pairs of the pool and one of nobody's."""
    rows = [world.row_uid(0), world.row_uid(1), "0" * 31 + "7"]
    out.write("subset.npy", uid.subset_bytes(uid.pack(pl.Series(rows))))
    world.explain(out, spec.recipe, [0, 1])
    return Subset(recipe=spec.recipe, num_samples=3, num_unique=3)


@step("subsets", version=1)
def listed_subset(spec: world.WorldSubsetSpec, pool: Pool, embeddings: Embeddings, *, out: Folder) -> Subset:
    """What a list of five uids comes to, three of which are not the pool's: the counts are those that `select_subset` records."""
    out.write("subset.npy", uid.subset_bytes(uid.pack(pl.Series([world.row_uid(0), world.row_uid(1)]))))
    world.explain(out, spec.recipe, [0, 1])
    counts = {"unique, of the lists": 5, "not_in_pool, of the lists": 3}
    return Subset(recipe=spec.recipe, num_samples=2, num_unique=2, counts=counts)


@step("shards", version=1)
def rewritten_shards(spec: world.WorldSpec, subset: Subset, shards: ShardSet, *, out: Folder) -> ShardSet:
    """As resharding makes them, but for captions of one's own."""
    world.write_shard(out, "00000000", [0, 1, 2], caption=lambda number: f"a better caption {number}")
    return ShardSet(num_samples=3, num_unique=3, num_shards=1)


def test_a_good_run_breaks_no_rule(store: Store) -> None:
    world.run(store, "clip_score", world.results(0.1, 0))
    found = checks(store)
    assert {rule: check.ok for rule, check in found.items()} == dict.fromkeys(found, True)
    kept = sum(world.is_kept("clip_score", i) for i in range(world.NUM))
    assert f"all {kept} uids were found there" in found["uids of the pool"].reason
    assert "all have its caption" in found["captions unedited"].reason


def test_a_uid_that_the_pool_lacks_is_a_breach(store: Store) -> None:
    world.run(store, "clip_score", world.results(0.1, 0), select=foreign_subset)
    check = checks(store)["uids of the pool"]
    assert check.ok is False
    assert check.reason == f"1 of 3 uids are not in the pool: {'0' * 31}7."
    assert board(store, "tiny").rows[0].rank is None


def test_a_listed_uid_that_the_pool_lacks_is_a_breach_with_its_count_on_the_board(store: Store) -> None:
    world.run(store, "clip_score", world.results(0.1, 0), select=listed_subset)
    check = checks(store)["uids of the pool"]
    assert check.ok is False
    assert check.reason == "3 of 5 listed uids are not in the pool."
    [row] = [row for row in board(store, "tiny").rows if row.kind == "run"]
    assert row.rank is None
    assert any("3 of 5 listed uids" in str(breach) for breach in row.breaches)


def test_an_edited_caption_is_a_breach(store: Store) -> None:
    world.run(store, "clip_score", world.results(0.1, 0), reshard=rewritten_shards)
    check = checks(store)["captions unedited"]
    assert check.ok is False
    assert "3 training samples were compared with the pool's metadata: 3 have another caption" in check.reason


def test_bring_your_own_data_is_asked_for_test_images_instead(store: Store) -> None:
    made = world.run(store, "clip_score", world.results(0.1, 0))
    record = store.record(made.address)
    assert record is not None
    kinds = {"report": world.EvalReport, "checkpoint": world.Checkpoint, "subset": Subset, "shards": ShardSet}
    inputs: list[Any] = []
    for name, kind in kinds.items():
        upstream = store.record(record.inputs[name][0]["address"])
        assert upstream is not None
        inputs.append(store.artifact(kind, upstream))
    enter(EntrySpec(track="byod", method="mine"), *inputs, store=store)
    entry = next(entry for _, entry in entries(store) if entry.track == "byod")
    rules = {check.rule: check.ok for check in entry.checks}
    assert rules["no evaluation images"] is None, "nothing in this world compared the images with the test sets"
    assert "captions unedited" not in rules


def test_the_suite_of_another_scale_is_a_breach(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.1, 0), suite="datacomp")
    check = checks(store)["evaluation complete"]
    assert check.ok is False
    assert "is scored by the suite tiny" in check.reason


def test_a_pool_too_large_to_count_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_check, "MAX_POOL_ROWS", 10)
    store = Store.open(str(tmp_path))
    world.run(store, "clip_score", world.results(0.1, 0))
    assert "not looked up" in checks(store)["uids of the pool"].reason


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ({"kind": "everything"}, "baseline"),
        ({"kind": "random", "share": 0.3, "seed": 1}, "control"),
        ({"kind": "all", "filters": [{"kind": "everything"}, {"kind": "random"}]}, "control"),
        ({"kind": "all", "filters": [{"kind": "words"}, {"kind": "random"}]}, "method"),
        ({"kind": "not", "filter": {"kind": "top_fraction"}}, "method"),
        ({}, "method"),
    ],
)
def test_what_a_filter_is_decides_the_role_and_not_its_name(store: Store, filter_: dict[str, Any], expected: str) -> None:
    world.run(store, "random_looking", world.results(0.1, 0), chosen=filter_)
    [(_, entry)] = entries(store)
    assert role(entry) == expected
    assert board(store, "tiny").rows[0].role == expected


def test_methods_on_other_pools_are_told_apart(store: Store) -> None:
    for pool_seed in (0, 1):
        world.run(store, "no_filter", world.results(0.1, 0), pool_seed=pool_seed)
    assert {address.split("/")[2].partition("--")[0] for address, _ in entries(store)} == {
        "no_filter-pool0-seed0",
        "no_filter-pool1-seed0",
    }


def only(store: Store, **how: Any) -> Any:
    made = world.run(store, "no_filter", world.results(0.1, 0), **how)
    return next(entry for address, entry in entries(store) if address == made.address)


def test_a_pool_of_ones_own_stands_on_the_board_of_the_training_in_its_own_track(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.05, 0))
    own = only(store, pool_spec=world.WorldPoolSpec(scale="byod"), method="mine")
    assert (own.scale, own.track) == ("tiny", "byod")
    made = board(store, "tiny")
    assert [(row.track, row.rank) for row in made.rows] == [("filtering", 1), ("byod", 1)]
    assert made.tracks() == ["filtering", "byod"]
    assert [row.method for row in made.of_track("byod").rows] == ["mine"]
    assert findings.best(made) == made.of_track("filtering").rows[0], "data of one's own lead no headline of the filtering track"


def test_pools_of_ones_own_are_told_apart_by_their_names(store: Store) -> None:
    for number, name in enumerate(("birds", "boats")):
        world.run(store, "no_filter", world.results(0.1, 0), pool_spec=NamedPoolSpec(name=name, seed=number))
    assert sorted(row.method for row in board(store, "tiny").rows) == ["no_filter (pool birds)", "no_filter (pool boats)"]
    world.run(store, "no_filter", world.results(0.1, 0), pool_spec=NamedPoolSpec(scale="folder", name="boats", seed=7))
    assert len({row.method for row in board(store, "tiny").rows}) == 3, "by what differs where names do not"


class NamedPoolSpec(world.WorldPoolSpec):
    scale: str = "byod"
    name: str = "mine"


def test_an_adopted_pool_without_a_name_is_ones_own(store: Store) -> None:
    assert only(store, pool_spec=world.WorldAdoptedSpec(of="custom")).track == "byod"


def test_a_foreign_pool_that_says_it_is_the_scales_is_not_ranked(store: Store) -> None:
    """785 drawings of one's own, adopted with `--of tiny`, led the board."""
    unverified = only(store, pool_spec=world.WorldAdoptedSpec())
    check = next(check for check in unverified.checks if check.rule == "pool of the scale")
    assert (unverified.track, check.ok) == ("filtering", None)
    assert check.reason.startswith("Unverified: pools/adopted/")
    assert "datacomp pool --scale tiny --metadata-only" in check.reason
    [row] = board(store, "tiny").rows
    assert (row.rank, len(row.unverified)) == (None, 1)
    before = other_pool(world.WorldPoolSpec(seed=3), store=store)
    for _ in range(2):  # the second time by what was kept
        [row] = board(store, "tiny").rows
        assert (row.rank, row.unverified, len(row.breaches)) == (None, [], 1)
        assert f"7 of the {world.NUM} uids of pools/adopted/" in row.breaches[0]
    assert store.record(before.address) is not None
    world.world_pool(world.WorldPoolSpec(), store=store)
    for _ in range(2):
        [row] = board(store, "tiny").rows
        assert (row.rank, row.unverified, row.breaches) == (1, [], []), "the board looks again when the metadata has come"
    assert not unverified.checks[1].ok, "what was entered is what was known then"


@step("pools", version=7)
def other_pool(spec: world.WorldPoolSpec, *, out: Folder) -> Pool:
    """A pool of `tiny` with some of the world's rows and some of its own."""
    shared = world.NUM - 7
    uids = [world.row_uid(i) for i in range(shared)] + [f"{i:032x}" for i in range(9)]
    with out.writing("metadata/0.parquet") as path:
        pl.DataFrame({"uid": uids}).write_parquet(path)
    return Pool(num_samples=len(uids), num_parts=1)


@pytest.mark.parametrize("most", [20_000_000, 1])
def test_an_adopted_pool_is_held_against_the_scales_own(store: Store, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "MAX_POOL_ROWS", most)
    other_pool(world.WorldPoolSpec(), store=store)
    found = only(store, pool_spec=world.WorldAdoptedSpec())
    check = next(check for check in found.checks if check.rule == "pool of the scale")
    if most == 1:
        assert check.ok is None
        assert f"({world.NUM} rows) does not have exactly the uids of" in check.reason
    else:
        assert check.ok is False
        assert check.reason.startswith(f"7 of the {world.NUM} uids of pools/adopted/")
    world.world_pool(world.WorldPoolSpec(), store=store)
    good = only(store, pool_spec=world.WorldAdoptedSpec(seed=1))
    check = next(check for check in good.checks if check.rule == "pool of the scale")
    assert check.ok is True


def test_the_pool_of_another_scale_is_a_breach(store: Store) -> None:
    found = only(store, pool_spec=world.WorldPoolSpec(scale="small"))
    check = next(check for check in found.checks if check.rule == "pool of the scale")
    assert (found.scale, check.ok) == ("tiny", False)
