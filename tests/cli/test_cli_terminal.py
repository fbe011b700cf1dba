"""Names and paths are shown as they are: `[` begins no mark of rich's, whatever follows it."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from deployments.cli.terminal import JsonOutput, StepDisplay
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


def test_standard_output_is_given_back_after_its_callers_stream_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a failed command of a test runner: the next command does not fail for it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    JsonOutput.keep(True)
    assert sys.stdout is sys.stderr
    stream.close()
    JsonOutput.give_back()
    assert sys.stdout is stream
    assert JsonOutput.kept is None
