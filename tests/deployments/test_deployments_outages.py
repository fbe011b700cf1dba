"""Server, database and whole machines that go away and come back, with processes of this machine and a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import Api
from processes import pids_with
from stack import POSTGRES, ROOT, SECRETS, Stack, end, started, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed (apt install postgresql)"),
]
PATIENCE = 900
HERE = str(Path(__file__).parent)
DEPLOY = """
from patient_flow import patient
from deployments.catalog import OF_EVERY_RUN
from prefect.types.entrypoint import EntrypointType
print(patient.to_deployment("patient", tags=["datacomp"], work_pool_name="cpu", job_variables={"env": OF_EVERY_RUN},
    entrypoint_type=EntrypointType.MODULE_PATH).apply())
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("outages"), "tiny") as made:
        made.start_worker("cpu", PYTHONPATH=f"{ROOT}:{HERE}")
        path = {**os.environ, **made.environment, "PYTHONPATH": f"{ROOT}:{HERE}"}
        subprocess.run([sys.executable, "-c", DEPLOY], env=path, check=True, timeout=300, stdout=subprocess.DEVNULL)
        yield made


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.api, SECRETS["PREFECT_AUTH"])


def begun(stack: Stack, api: Api) -> tuple[str, Path]:
    """A run at work, and the file that ends it."""
    until = stack.folder / f"end-{time.monotonic_ns()}"
    run = api.start("patient/patient", {"until": str(until)})
    wait_for(lambda: api.tasks(run), PATIENCE, "the first task")
    return run, until


def ended(api: Api, run: str, until: Path) -> dict[str, Any]:
    until.touch()
    return api.wait(run, PATIENCE)


def completed(api: Api, run: str) -> bool:
    return {task["state"]["type"] for task in api.tasks(run)} == {"COMPLETED"}


def test_a_database_that_is_away_for_a_minute_costs_nothing(stack: Stack, api: Api) -> None:
    run, until = begun(stack, api)
    assert stack.database is not None
    stack.database.end(signal.SIGINT)
    time.sleep(75)
    stack.database.start()
    time.sleep(130)  # longer than a run may be silent, and as long again as it takes to notice
    now = api.run(run)
    assert (now["state"]["type"], now["run_count"]) == ("RUNNING", 1), stack.logs()
    done = ended(api, run, until)
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 1), stack.logs()
    wait_for(lambda: completed(api, run), 120, "the states of all tasks, those of the outage too")
    again, until = begun(stack, api)
    assert ended(api, again, until)["state"]["type"] == "COMPLETED"


def test_a_server_that_is_away_longer_than_a_run_may_be_silent_makes_no_run_lost(stack: Stack, api: Api) -> None:
    run, until = begun(stack, api)
    stack.server.end(signal.SIGKILL)
    time.sleep(110)
    stack.server.start()
    time.sleep(130)
    now = api.run(run)
    assert (now["state"]["type"], now["run_count"]) == ("RUNNING", 1), stack.logs()
    done = ended(api, run, until)
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 1), stack.logs()


def test_a_reboot_of_everything_twice_ends_in_a_completed_run(stack: Stack, api: Api) -> None:
    run, until = begun(stack, api)
    assert stack.database is not None
    for attempt in (2, 3):
        end(stack.workers["cpu"], signal.SIGKILL)
        for pid in pids_with(f"PREFECT__FLOW_RUN_ID={run}"):
            os.kill(pid, signal.SIGKILL)
        stack.server.end(signal.SIGKILL)
        stack.database.end(signal.SIGQUIT)  # at once, without a checkpoint
        stack.database.start()
        stack.server.start()
        stack.set_up("tiny")
        stack.start_worker("cpu", PYTHONPATH=f"{ROOT}:{HERE}")

        def at_work(attempt: int = attempt) -> bool:
            now = api.run(run)
            return now["state"]["type"] == "RUNNING" and now["run_count"] == attempt

        wait_for(at_work, PATIENCE, f"attempt {attempt}")
    done = ended(api, run, until)
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 3), stack.logs()
