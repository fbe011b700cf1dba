"""The leaderboard as a task: rebuilt from the entries, shown as a table in the UI, written as a page with pictures."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from datacomp_core.leaderboard import findings
from datacomp_core.leaderboard.board import board
from datacomp_core.leaderboard.site.board_page import write_page
from datacomp_core.settings import settings
from tasks import policies, published
from tasks.events import StepEvent, tell
from tasks.reporting import artifact_key, in_task_run
from tasks.running import store


@task(name="publish board", **policies.LOCAL)
def publish_board(scale: str) -> Path:
    """The page of one scale, and its table in the UI. Returns the page's path."""
    began = time.monotonic()
    made = board(store(), scale)
    page = write_page(store(), settings().home / "report", scale=scale)
    link = published.leave(f"{scale}.html", page.read_bytes())
    tell(StepEvent("page", scale, "built", page.resolve().as_uri(), 1.0, time.monotonic() - began))
    if in_task_run():
        rows = [
            {
                "place": row.place,
                "method": row.method,
                "track": row.track,
                "seeds": row.num_seeds,
                "inputs": row.input_class,
                "size": round(row.size) if row.size else "",
                **{
                    column.title: findings.percent(row.scores[column.key].mean)
                    for column in made.columns
                    if column.level != "task" and column.key in row.scores
                },
                "against no filter": row.baseline.outcome if row.baseline else "",
            }
            for row in made.rows
        ]
        create_table_artifact(rows, key=artifact_key("leaderboard", scale), description=f"Leaderboard of scale {scale}, percent")
        create_link_artifact(link, f"Report page of {scale}", key=artifact_key("leaderboard-page", scale))
    return page
