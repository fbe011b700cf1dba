"""Ctrl-C at the terminal: the command ends at once with status 130, nothing of it stays, and what was finished is kept."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from processes import wait_until_gone

COMMAND = str(Path(sys.executable).with_name("datacomp"))


def states(home: Path) -> list[str]:
    """What the server's database says of the flow runs."""
    with closing(sqlite3.connect(f"file:{home}/prefect/prefect.db?mode=ro", uri=True)) as database:
        return [state for (state,) in database.execute("SELECT state_type FROM flow_run")]


def test_interrupted_in_mid_download_it_ends_at_once_and_keeps_what_is_done() -> None:
    home = os.environ["DATACOMP_HOME"]
    run = subprocess.Popen([COMMAND, "pool"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    while "shards" not in (line := run.stdout.readline()):
        assert line, (run.communicate(), run.returncode)
    time.sleep(3)  # into the download
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert wait_until_gone(home) == []
    assert states(Path(home)) == ["CANCELLED"]
    planned = subprocess.run([COMMAND, "plan", "--json"], capture_output=True, text=True, check=True)
    built = {step["kind"]: step["built"] for step in json.loads(planned.stdout)["steps"]}
    assert built["pools"]
    assert not built["reports"]
