"""The lines of a child process in our log: whole, once, and never a flood."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from datacomp_core.subprocess_output import LINES, SECONDS, SubprocessOutput


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_lines_are_told_once_when_they_are_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "ranks.log"
    file.write_text("of an earlier run\n")
    echo = SubprocessOutput(file, start=file.stat().st_size, hushed="| INFO |")
    echo()
    assert told(caplog) == []
    with file.open("a") as out:
        out.write("12:00 | INFO | Train Epoch: 0\n12:00 | WARNING | slow disk\n\nhalf a")
    echo()
    assert told(caplog) == ["ranks: 12:00 | WARNING | slow disk"]
    with file.open("a") as out:
        out.write(" line\n")
    echo()
    assert told(caplog) == ["ranks: half a line"]


def test_a_flood_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "img2dataset.log"
    echo = SubprocessOutput(file)
    echo()
    file.write_text("".join(f"line {number}\n" for number in range(LINES + 900)))
    echo()
    assert told(caplog) == [f"img2dataset: line {number}" for number in range(LINES)]
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + SECONDS + 1)
    with file.open("a") as out:
        out.write("later\n")
    echo.close()
    assert told(caplog) == ["img2dataset: and 900 more lines", "img2dataset: later"]
