"""Names and paths are shown as they are: `[` begins no mark of rich's, whatever follows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deployments.cli.terminal import StepDisplay
from tasks.events import Phase, StepEvent

ODD = "/data[/old]/x [red] [1]\\[bold]"


@pytest.mark.parametrize("phase", ["built", "reused", "failed", "expected", "progress"])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_a_step_says_is_shown_as_it_is(phase: Phase, is_terminal: bool) -> None:
    told = io.StringIO()
    console = Console(file=told, width=200, soft_wrap=True, highlight=False, force_terminal=is_terminal, no_color=True)
    with StepDisplay(console) as steps:
        steps(StepEvent("pools", "birds [x]*", "progress", f"pools: {ODD}", 0.5, 1.0))
        if phase != "progress":
            steps(StepEvent("pools", "birds [x]*", phase, f"pools: {ODD}", 1.0, 1.0))
    assert ODD in told.getvalue() or (is_terminal and phase == "progress")
    if phase in ("built", "reused", "failed"):
        assert "birds [x]*" in told.getvalue()
