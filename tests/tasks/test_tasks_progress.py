"""The progress of a step in the Prefect UI: a step that was killed half-way and resumed ends at 100 %."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import flow, task
from prefect.artifacts import ProgressArtifact

from tasks.reporting import StepProgress


def progress(name: str, *, is_slow: bool) -> StepProgress:
    """Two of ten parts are done. A slow step shows every advance, a fast one none."""
    made = StepProgress("pools", name, every=0.0 if is_slow else 1e9)
    made.start(10, "parts")
    made.advance(2)
    return made


def in_a_task(work: Any) -> None:
    @task
    def one() -> None:
        work()

    @flow
    def whole() -> None:
        one()

    whole()


def shown(name: str) -> float | None:
    found: Any = ProgressArtifact.get(f"pools-{name}-progress")
    return None if found is None else float(found.data)


@pytest.mark.usefixtures("prefect_server")
def test_the_end_of_a_resumed_step_replaces_the_progress_of_the_killed_one() -> None:
    in_a_task(lambda: progress("killed", is_slow=True))
    assert shown("killed") == 20.0
    in_a_task(lambda: progress("killed", is_slow=False).finish())
    assert shown("killed") == 100.0
    in_a_task(lambda: progress("fast", is_slow=False).finish())
    assert shown("fast") is None, "a step that was never slow enough to show its progress has none"
