"""Tables in the Prefect UI write figures as the report page does: percent of scores, shares of rows, thousands apart."""

from __future__ import annotations

from typing import Any

from datacomp_core.artifacts import EvalReport, ShardSet
from datacomp_core.evaluation.score_changes import ScoreChange
from datacomp_core.leaderboard.board.board import Board
from datacomp_core.leaderboard.board.rows import BoardColumn, BoardRow, BoardScore
from datacomp_core.leaderboard.site.board_page import environment
from tasks import board, filter_figures, reevaluation, reporting

MADE: dict[str, Any] = {
    "kind": "run",
    "recipe": "r",
    "track": "filtering",
    "suite": "tiny",
    "seeds": [],
    "unique": None,
    "num_seeds": 2,
}


def test_the_leaderboard_has_the_figures_of_the_page() -> None:
    columns = [
        BoardColumn(key="average", title="Average", level="average"),
        BoardColumn(key="g", title="VTAB", level="group"),
        BoardColumn(key="t", title="Digits", level="task"),
    ]
    scores = {"average": BoardScore(mean=0.12345, std=0.004, values=[0.1, 0.2]), "t": BoardScore(mean=0.5)}
    rows = [
        BoardRow(key="a", method="mine", size=1234, pool=4000, scores=scores, **MADE),
        BoardRow(key="b", method="theirs", size=None, scores={"average": BoardScore(mean=0.1)}, **MADE),
    ]
    mine, theirs = board.rows_of(Board.model_construct(scale="tiny", suite="tiny", columns=columns, rows=rows))
    shown = environment().from_string('{% from "parts.html" import score with context %}{{ score(cell) }}')
    for figure in mine["Average"].replace("\u202f%", "").split(" ± "):
        assert figure in shown.render(cell=scores["average"])
    assert mine["Average"] == "12.3\u202f% ± 0.4"
    assert (mine["pairs"], theirs["pairs"]) == ("1,234 (31\u202f%)", "–")
    assert theirs["Average"] == "10.0\u202f%"
    assert mine["VTAB"] == "–", "a column that the first row lacks would not be shown for the others"
    assert "Digits" not in mine


def test_a_filter_says_what_share_each_reason_dropped() -> None:
    told = {
        "rows": 4000,
        "kept": 1000,
        "steps": [{"title": "words", "asked": 4000, "kept": 2500}, {"title": "language", "asked": 0, "kept": 0}],
        "dropped": {"words": 1500, "lost": 1500},
    }
    table = [(row["what"], row["rows"], row["kept"], row["share"]) for row in filter_figures.steps_of(told)]
    assert table == [
        ("asked: words", "4,000", "2,500", "62.5\u202f%"),
        ("asked: language", "0", "0", "–"),
        ("kept", "4,000", "1,000", "25.0\u202f%"),
        ("dropped: words", "1,500", "", "37.5\u202f%"),
        ("dropped: lost", "1,500", "", "37.5\u202f%"),
    ]


def test_the_summary_of_a_step_has_averages_in_percent_and_a_download_its_shares() -> None:
    report = EvalReport(suite="tiny", suite_version=1, num_tasks=7, average=0.25)
    told = {row["what"]: row["value"] for row in reporting.rows_about(report)}
    assert told["average"] == "25.0\u202f%"
    assert told["suite"] == "tiny"
    counts = {"candidates": 2000, "arrived": 1500, "http_4xx": 500}
    shards = ShardSet(num_samples=1500, num_unique=1500, num_shards=1, counts=counts)
    told = {row["what"]: row["value"] for row in reporting.rows_about(shards)}
    assert told["num_samples"] == "1,500"
    assert told["count: arrived"] == "1,500 (75.0\u202f%)"
    assert told["count: http_4xx"] == "500 (25.0\u202f%)"


def test_an_alarm_shows_a_drift_that_one_digit_would_hide() -> None:
    row = reevaluation.table_row(ScoreChange("checkpoints/x", "a", 0.5, 0.5002))
    assert (row["before"], row["now"], row["by (points)"]) == ("50.0000\u202f%", "50.0200\u202f%", "+0.0200")
