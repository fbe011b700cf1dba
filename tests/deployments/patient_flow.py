"""A flow for tests of outages: a task and an artifact a second, until a file says that it may end."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact


@task
def beat(number: int) -> int:
    time.sleep(1)
    create_markdown_artifact(str(number), key="beat")
    return number


@flow
def patient(until: str) -> int:
    """The number of tasks that ran before the file `until` was there."""
    number = 0
    while not Path(until).exists():
        number = beat(number) + 1
    return number
