"""Tasks of one's own on a board: beside the suite's, in no average, rank or verdict, and not removed as unused."""

from __future__ import annotations

from pathlib import Path

import board_world as world
import pytest

from datacomp_core.artifacts import BoardEntry, Checkpoint, EvalReport, EvalSets, Spec
from datacomp_core.leaderboard.board.board import board
from datacomp_core.leaderboard.board.garbage_collection import unused
from datacomp_core.leaderboard.entries import entry as entries
from datacomp_core.leaderboard.site.board_page import page
from datacomp_core.store import Folder, Store, step


class OwnWorldSpec(Spec):
    """Scores by key."""

    scores: dict[str, float]


@step("reports", version=5)
def own_report(spec: OwnWorldSpec, checkpoint: Checkpoint, evalsets: EvalSets, *, out: Folder) -> EvalReport:
    tasks = [{"key": key, "name": key, "main_metric": "acc1", "value": value} for key, value in spec.scores.items()]
    shown = {"key": "mine/shown", "name": "shown", "main_metric": None, "value": None}
    out.write_json("report.json", {"tasks": [*tasks, shown]})
    return EvalReport(suite="custom", suite_version=1, num_tasks=len(tasks), average=None)


def measure(store: Store, made: BoardEntry, **scores: float) -> EvalReport:
    record = store.record(entries.read(store, made).inputs["checkpoint"])
    assert record is not None
    sets = world.world_evalsets(world.WorldSpec(), store=store)
    named = {f"mine/{name}": value for name, value in scores.items()}
    return own_report(OwnWorldSpec(scores=named), store.artifact(Checkpoint, record), sets, store=store)


def test_own_tasks_stand_apart_from_the_suite(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    plain = [world.run(store, "no_filter", world.results(0.10, seed), seed=seed) for seed in (0, 1)]
    mine = [world.run(store, "clip_score", world.results(0.14, seed), seed=seed) for seed in (0, 1)]
    before = board(store, "tiny")
    for seed, one in enumerate(mine):
        measure(store, one, birds=0.2 + 0.1 * seed, maps=0.5)
    for one in plain:
        measure(store, one, birds=0.9)
    made = board(store, "tiny")
    assert [(column.key, column.level) for column in made.columns[len(before.columns) :]] == [
        ("own", "own"),
        ("own:mine/birds", "own task"),
        ("own:mine/maps", "own task"),
    ]
    rows = {row.recipe: row for row in made.runs()}
    best = rows["clip_score"]
    assert best.scores["own:mine/birds"].values == [pytest.approx(0.2), pytest.approx(0.3)]
    assert best.scores["own"].values == [pytest.approx(0.35), pytest.approx(0.4)]
    assert "own" not in rows["no_filter"].scores, "it lacks a task"
    assert "own:mine/shown" not in {column.key for column in made.columns}
    for row, was in zip(made.runs(), before.runs(), strict=True):
        assert {**row.scores, **was.scores} == row.scores
        assert (row.rank, row.baseline, row.entries) == (was.rank, was.baseline, was.entries)
    text = page(store, "tiny")
    assert "Own tasks" in text
    assert "acc1, own" in text


def test_the_newest_report_of_a_task_counts_and_no_report_beside_an_entry_is_unused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    made = world.run(store, "no_filter", world.results(0.10, 0))
    measure(store, made, birds=0.2, maps=0.5)
    measure(store, made, birds=0.7)
    [row] = board(store, "tiny").runs()
    assert (row.scores["own:mine/birds"].mean, row.scores["own"].mean) == (0.7, pytest.approx(0.6))
    assert unused(store, older_than_hours=0) == []
