"""The algebra against its definition, row by row; order, workers and parts do not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import filter_world as world
import pytest

from datacomp_core.filters import AllOf, AnyOf, Filter, Language, NotOf, RandomFraction, Threshold, TopCount, TopFraction, Words
from datacomp_core.selection.filter_evaluator import FilterNode, sequence


def _random_tree(chance: random.Random, depth: int) -> dict[str, Any]:
    if depth and chance.random() < 0.6:
        kind = chance.choice(["all", "any", "not"])
        if kind == "not":
            return {"kind": "not", "filter": _random_tree(chance, depth - 1)}
        return {"kind": kind, "filters": [_random_tree(chance, depth - 1) for _ in range(chance.randint(1, 3))]}
    return chance.choice(
        [
            {"kind": "words", "at_least": chance.randint(1, 6)},
            {"kind": "characters", "at_least": chance.randint(1, 30)},
            {"kind": "image_size", "shorter_side_at_least": chance.randint(1, 400)},
            {"kind": "threshold", "score": "l14", "at_least": round(chance.uniform(0.1, 0.4), 2)},
            {"kind": "top_fraction", "score": chance.choice(["l14", "b32"]), "fraction": chance.uniform(0.05, 0.9)},
        ]
    )


@pytest.mark.parametrize("seed", range(25))
def test_random_trees_keep_what_their_definition_keeps(seed: int, tmp_path: Path) -> None:
    table = world.rows(seed)
    tree = _random_tree(random.Random(seed), depth=3)
    found, done = world.kept(tree, world.write(tmp_path / "metadata", table), tmp_path / "out")
    assert found == sorted(row["uid"] for row in table if world.passes(tree, row, table))
    assert done.explanation.kept + sum(done.explanation.dropped.values()) == len(table)


def test_ranking_survivors_ranks_only_them(tmp_path: Path) -> None:
    table = world.rows(1)
    folder = world.write(tmp_path / "metadata", table)
    tree = AllOf(filters=(Words(at_least=3), TopFraction(score="b32", fraction=0.25, of="survivors", cut="at_fraction")))
    found, _ = world.kept(tree, folder, tmp_path / "out")
    survivors = [row for row in table if row["text"] is not None and len(row["text"].split()) >= 3]
    scored = [row for row in survivors if row["clip_b32_similarity_score"] is not None]
    best = sorted(scored, key=lambda row: -row["clip_b32_similarity_score"])[: int(len(survivors) * 0.25)]
    assert found == sorted(row["uid"] for row in best)


def test_the_survivors_of_survivors_are_ranked_in_turn(tmp_path: Path) -> None:
    table = world.rows(16)
    best = [TopCount(score=score, count=count, of="survivors") for score, count in (("b32", 90), ("l14", 40), ("b32", 9))]
    found, _ = world.kept(AllOf(filters=tuple(best)), world.write(tmp_path / "m", table), tmp_path / "out")
    left = table
    for score, count in (("b32", 90), ("l14", 40), ("b32", 9)):
        name = f"clip_{score}_similarity_score"
        ranked = sorted((row for row in left if row[name] is not None), key=lambda row: -row[name])
        left = [row for row in ranked if row[name] >= ranked[count - 1][name]]
    assert found == sorted(row["uid"] for row in left)


def test_survivors_inside_a_choice_and_after_a_language(tmp_path: Path) -> None:
    """The costly verdict is remembered between the pass for the cut and the last one: the same rows come out of both."""
    table = world.rows(2)
    folder = world.write(tmp_path / "metadata", table)
    first = AllOf(filters=(Language(), TopCount(score="b32", count=20, of="survivors")))
    english, _ = world.kept(Language(), folder, tmp_path / "english")
    found, _ = world.kept(AnyOf(filters=(first, Threshold(score="l14", at_least=9.0))), folder, tmp_path / "out")
    scores = {row["uid"]: row["clip_b32_similarity_score"] for row in table}
    best = sorted((u for u in english if scores[u] is not None), key=lambda u: -(scores[u] or 0))[:20]
    assert found == sorted(best)


def test_missing_values_pass_neither_a_filter_nor_its_opposite(tmp_path: Path) -> None:
    table = world.rows(3)
    folder = world.write(tmp_path / "metadata", table)
    low = Threshold(score="l14", at_least=0.25)
    yes, _ = world.kept(low, folder, tmp_path / "yes")
    no, done = world.kept(NotOf(filter=low), folder, tmp_path / "no")
    nulls = [row["uid"] for row in table if row["clip_l14_similarity_score"] is None]
    assert sorted([*yes, *no, *nulls]) == sorted(row["uid"] for row in table)
    assert done.explanation.dropped["no clip_l14_similarity_score"] == len(nulls) > 0


def test_cheap_filters_are_asked_first_but_never_past_one_that_ranks_survivors() -> None:
    best = TopCount(score="l14", count=5, of="survivors")
    tree = AllOf(filters=(Language(), Words(), AllOf(filters=(Threshold(),)), best, Language(language="de"), Words(at_least=9)))
    order = [placed.path for placed in sequence(FilterNode("0", tree))]
    assert order == ["0.1", "0.2.0", "0.0", "0.3", "0.5", "0.4"]


def test_the_same_bytes_whatever_the_workers_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datacomp_core.selection.worker_pool.COSTLY_ROWS_FOR_A_PROCESS", 1)
    monkeypatch.setattr("datacomp_core.selection.worker_pool.COSTLIEST_ROWS_FOR_A_PROCESS", 1)
    table = world.rows(4)
    tree = AllOf(filters=(Language(), TopFraction(score="l14", fraction=0.5), RandomFraction(share=0.5)))
    one = world.write(tmp_path / "one", table, num_parts=1)
    many = world.write(tmp_path / "many", table, num_parts=7)
    world.kept(tree, one, tmp_path / "a")
    world.kept(tree, many, tmp_path / "b", workers=2)
    world.kept(tree, many, tmp_path / "c", workers=1)
    for name in ("subset.npy", "explain.json", "histogram.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in ("kept.parquet", "dropped.parquet"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize(
    ("second", "share"),
    [
        (RandomFraction(share=0.5, of="survivors"), 0.2),
        (RandomFraction(share=0.5, of="pool"), 0.4),
        (TopFraction(fraction=0.5, of="survivors"), 0.2),
        (TopFraction(fraction=0.5, of="pool"), 0.4),
        (TopCount(count=300, of="survivors"), 0.3),
    ],
)
def test_a_share_of_the_survivors_is_a_share_of_what_is_left(second: Filter, share: float) -> None:
    tree = AllOf(filters=(RandomFraction(share=0.4, of="pool"), second))
    assert tree.expected_share(1000) == pytest.approx(share)
