"""What counts as drift: the same task on the same data by the same protocol, scored apart by more than the tolerance."""

from __future__ import annotations

from typing import Any

import pytest

from datacomp_core.errors import DataError
from datacomp_core.evaluation.score_changes import ScoreChange
from datacomp_core.evaluation.score_changes import changes_between as moved
from tasks.reevaluation import alarm


def report(**values: float | None) -> dict[str, Any]:
    tasks = [{"key": key, "value": value, "protocol_version": 1, "data": "d"} for key, value in values.items()]
    return {"device": "cpu", "precision": "reference", "compiled": False, "tasks": tasks}


def test_only_what_moved_beyond_the_tolerance_is_drift() -> None:
    before, now = report(a=0.5, b=0.5, c=None, d=0.1), report(a=0.5, b=0.51, c=0.3, e=0.9)
    assert moved(before, now, "checkpoints/x", 0.001) == [ScoreChange("checkpoints/x", "b", 0.5, 0.51)]
    assert moved(before, now, "checkpoints/x", 0.02) == []


@pytest.mark.parametrize("field", ["protocol_version", "data"])
def test_another_protocol_or_other_data_is_another_measurement(field: str) -> None:
    before, now = report(a=0.5), report(a=0.9)
    now["tasks"][0][field] = "another"
    assert moved(before, now, "checkpoints/x", 0.001) == []


def test_another_device_is_no_drift_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert moved(report(a=0.5), report(a=0.9) | {"device": "cuda"}, "checkpoints/x", 0.001) == []
    assert "checkpoints/x is not compared: its earlier report has a different device" in caplog.text


def test_the_alarm_names_the_worst_and_silence_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_EVENTS_ENABLED", "false")
    alarm("tiny", [], 0.1)
    with pytest.raises(DataError, match=r"2 scores .* b of y was 0.5\d* and is now 0.9"):
        alarm("tiny", [ScoreChange("x", "a", 0.5, 0.6), ScoreChange("y", "b", 0.5, 0.9)], 0.01)
