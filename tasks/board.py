"""The leaderboard tasks: rebuild the board from the entries, show it as a table in the UI, and write its pages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from datacomp_core.leaderboard.board import findings
from datacomp_core.leaderboard.board.board import Board, board
from datacomp_core.leaderboard.board.rows import BoardRow, BoardScore
from datacomp_core.leaderboard.site.board_page import write_page
from datacomp_core.leaderboard.site.number_format import amount
from datacomp_core.leaderboard.site.pages import write_site
from datacomp_core.settings import settings
from tasks import published, retry_policies
from tasks.events import StepEvent, tell
from tasks.reporting import artifact_key, in_task_run
from tasks.run_step import store


@task(name="publish board", **retry_policies.LOCAL)
def publish_board(scale: str) -> Path:
    """Write the page of one scale and its table in the UI. Returns the page's path."""
    began = time.monotonic()
    made = board(store(), scale)
    page = write_page(store(), settings().home / "report", scale=scale)
    link = published.publish_site(page.parent, scale)
    tell(StepEvent("page", scale, "built", page.resolve().as_uri(), 1.0, time.monotonic() - began))
    if in_task_run():
        create_table_artifact(rows_of(made), key=artifact_key("leaderboard", scale), description=f"Leaderboard of scale {scale}")
        create_link_artifact(link, f"Report page of {scale}", key=artifact_key("leaderboard-page", scale))
    return page


@task(name="publish site", **retry_policies.LOCAL)
def publish_site(scale: str) -> Path:
    """Write the board's page of a scale and a page for each method, comparison and pool. Returns the board's page."""
    began = time.monotonic()
    page = write_site(store(), settings().home / "report", scale=scale)
    published.publish_site(page.parent, scale)
    tell(StepEvent("page", scale, "built", page.resolve().as_uri(), 1.0, time.monotonic() - began))
    return page


def rows_of(board: Board) -> list[dict[str, Any]]:
    """The leaderboard as a table, its figures as the page writes them."""
    groups = [column for column in board.columns if column.level not in ("task", "own task")]
    return [
        {
            "place": row.place,
            "method": row.method,
            "track": row.track,
            "seeds": row.num_seeds,
            "inputs": row.input_class,
            "pairs": _pairs(row),
            **{column.title: _score(row.scores.get(column.key)) for column in groups},
            "against no filter": row.baseline.outcome if row.baseline else "",
        }
        for row in board.rows
    ]


def _pairs(row: BoardRow) -> str:
    told = amount(row.size)
    return f"{told} ({findings.percent(row.size / row.pool, 0)})" if row.size is not None and row.pool else told


def _score(score: BoardScore | None) -> str:
    if score is None:
        return "–"
    told = findings.percent(score.mean)
    return told if score.std is None else f"{told} ± {100 * score.std:.1f}"
