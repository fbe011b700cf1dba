"""The search page task: writes the page next to the board's pages and links it from the Prefect UI."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from datacomp_core.leaderboard.search.page import page_name, write_page
from datacomp_core.leaderboard.search.study import Study, study_of
from datacomp_core.settings import settings
from tasks import published, retry_policies
from tasks.events import StepEvent, tell
from tasks.reporting import artifact_key, in_task_run
from tasks.run_step import store


@task(name="publish search", **retry_policies.LOCAL)
def publish_search(address: str) -> Path:
    """Write the page of a search and its verdict in the UI. Returns the page's path."""
    began = time.monotonic()
    page = write_page(store(), address, settings().home / "report")
    link = published.publish(f"{page.parent.name}/{page_name(address)}", page.read_bytes())
    tell(StepEvent("page", page.stem, "built", page.resolve().as_uri(), 1.0, time.monotonic() - began))
    if in_task_run():
        study = study_of(store(), address)
        key = artifact_key("search", address)
        create_markdown_artifact(_told(study), key=key, description=f"Search {study.name} at {study.scale}")
        create_link_artifact(link, f"Page of the search {study.name}", key=f"{key}-page")
    return page


def _told(study: Study) -> str:
    if study.judgement is not None:
        return study.judgement.sentence
    best = "" if study.best is None else f", best so far trial {study.best}"
    return f"{len(study.trials)} trials of the search {study.name} are finished{best}."
