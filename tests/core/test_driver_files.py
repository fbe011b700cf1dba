"""What a driver and its workers share lies in the store while a command runs, and what a killed one left goes with the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datacomp_core import engines
from datacomp_core.driver_files import SILENT_SECONDS, STALE_SECONDS, exchange
from datacomp_core.settings import settings
from datacomp_core.store import Folder, clock

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"DATACOMP_ENGINE": "dask", "DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:1"}
SCRIPT = """
import sys, time
import numpy as np
from datacomp_core.driver_files import exchange
from datacomp_core.store import Folder
with exchange(Folder(sys.argv[1])) as shared:
    shared.save("large", np.arange(9))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    for name, value in (ELSEWHERE | {"DATACOMP_STORE": str(tmp_path / "store")}).items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    assert engines.spans_machines()
    return Folder(tmp_path / "out")


def test_it_is_gone_after_the_block(out: Folder) -> None:
    with exchange(out) as shared:
        shared.save("x", np.arange(3))
        assert len(out.files()) == 2, "the array, and the lease"
        assert shared.load("x").tolist() == [0, 1, 2]
    with pytest.raises(ZeroDivisionError), exchange(out) as shared:
        shared.save("x", np.arange(3))
        raise ZeroDivisionError
    assert out.files() == {}


def test_what_a_killed_command_left_goes_with_the_next_and_what_one_uses_stays(out: Folder) -> None:
    command = [sys.executable, "-c", SCRIPT, out.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed, alive = (subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for one in (killed, alive):
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        assert len(out.files("large")) == 2
        with exchange(out):
            pass
        assert len(out.files("large")) == 1
        assert len(out.files()) == 2
    finally:
        for one in (killed, alive):
            one.kill()
            one.communicate()


@pytest.mark.parametrize(("seconds", "stays"), [(SILENT_SECONDS / 2, True), (SILENT_SECONDS * 2, False)])
def test_a_machine_that_is_silent_for_a_day_is_gone(
    seconds: float, stays: bool, out: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "age", lambda *_: seconds)  # as the store has it, whatever its clock said
    told = {"host": "another", "pid": 1, "renewed": time.time()}
    out.write("scratch/1-ab/large", b"x")
    out.write("scratch/1-ab.lease-1", json.dumps(told).encode())
    with exchange(out):
        pass
    assert bool(out.files()) is stays


@pytest.mark.parametrize(("seconds", "stays"), [(STALE_SECONDS / 2, True), (STALE_SECONDS * 2, False)])
def test_scratch_of_an_earlier_version_stays_for_a_week(seconds: float, stays: bool, out: Folder) -> None:
    out.write(f"scratch/{int(time.time() - seconds)}-ab/large", b"x")
    with exchange(out):
        pass
    assert bool(out.files()) is stays
