"""The sentences follow the verdicts: no gain is claimed that the noise could explain."""

from __future__ import annotations

from pathlib import Path

import board_world as world
import pytest

from datacomp_core.leaderboard.board.board import board
from datacomp_core.leaderboard.board.findings import best, finding, not_helping
from datacomp_core.scales import scale
from datacomp_core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_one_seed_is_said_to_leave_the_noise_unknown(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.05, 0))
    world.run(store, "clip_score", {**world.results(0.14, 0), "clipart": 0.01})
    made = board(store, "tiny")
    said = finding(made)
    assert "the noise of training is unknown" in " ".join(said.lead)
    assert any("Clipart" in sentence and "one seed each" in sentence for sentence in not_helping(made))


def test_a_difference_within_the_noise_is_no_win(store: Store) -> None:
    for seed, shift in enumerate((-0.02, 0.0, 0.02)):
        for recipe, center in (("no_filter", 0.1), ("clip_score", 0.104)):
            scores = {task: center + 0.01 * place + shift for place, task in enumerate(world.TASKS)}
            world.run(store, recipe, dict(scores), seed=seed)
    made = board(store, "tiny")
    assert finding(made).title.startswith("None of the filters clearly beats")
    assert "clip_score is not clearly different from no filter" in " ".join(not_helping(made))
    assert {row.place for row in made.rows} == {"=1"}


def test_what_breaks_a_rule_does_not_lead(store: Store) -> None:
    generous = scale("tiny").model_copy(update={"train_num_samples": 10**6})
    world.run(store, "clip_score", world.results(0.3, 0), scale_row=generous, method="cheat")
    world.run(store, "no_filter", world.results(0.05, 0))
    made = board(store, "tiny")
    assert made.rows[0].method == "cheat"
    assert made.rows[0].place == ""
    winner = best(made)
    assert winner is not None
    assert winner.method == "no_filter"


def test_a_board_without_a_ranked_row_says_so(store: Store) -> None:
    generous = scale("tiny").model_copy(update={"train_num_samples": 10**6})
    world.run(store, "clip_score", world.results(0.3, 0), scale_row=generous, method="cheat")
    said = finding(board(store, "tiny")).title
    assert said.startswith("No result is ranked yet: cheat (")
    assert said.endswith("breaks a rule of its track")


def test_an_unfiltered_pool_that_leads_is_no_news(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.3, 0))
    world.run(store, "random", world.results(0.05, 0))
    made = board(store, "tiny")
    assert finding(made).title.startswith("No filter beats the unfiltered pool")
    assert "random is worse than no filter" in " ".join(not_helping(made))
