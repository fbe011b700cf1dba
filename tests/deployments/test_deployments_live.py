"""The services of docker-compose.yml as processes, used as a person would: real PostgreSQL, Prefect, S3, workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from client import FINAL, Api
from processes import processes_with, wait_until_gone
from stack import SECRETS, Stack, end, started, wait_for

from datacomp_core.artifacts import EvalReport
from datacomp_core.evaluation.report import REPORT
from datacomp_core.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PATIENCE = 1800


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("stack")) as made:
        made.start_worker("cpu")
        yield made


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack.api, SECRETS["PREFECT_AUTH"])


@pytest.fixture(scope="module")
def finished(stack: Stack, api: Api) -> str:
    """A run of experiment/tiny, started from its form as the page sends it."""
    form = api.form("experiment/experiment-tiny")["parameters"]
    run = api.start("experiment/experiment-tiny", {"spec": {**form["spec"], "recipe": "no_filter"}})
    ended = api.wait(run, PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", stack.logs()
    return run


def test_an_experiment_completes_and_leaves_artifacts(finished: str, api: Api) -> None:
    kinds = {artifact["type"] for artifact in api.artifacts(finished)}
    assert {"table", "progress"} <= kinds
    # The server hears of task runs by events, a moment after the flow run.
    wait_for(lambda: {task["state"]["type"] for task in api.tasks(finished)} == {"COMPLETED"}, 60, "the end of every task run")
    tables = [artifact for artifact in api.artifacts(finished) if artifact["type"] == "table"]
    assert sum("built" in str(table["data"]) for table in tables) >= 6


def test_a_second_run_reuses_every_step(finished: str, api: Api) -> None:
    again = api.start("experiment/experiment-tiny", api.run(finished)["parameters"])
    assert api.wait(again, PATIENCE)["state"]["type"] == "COMPLETED"
    statuses = [str(one["data"]) for one in api.artifacts(again) if one["type"] == "table" and "status" in str(one["data"])]
    assert statuses
    assert all("reused: built before" in status for status in statuses)


def test_cancelling_ends_the_whole_process_tree(finished: str, stack: Stack, api: Api) -> None:
    form = api.run(finished)["parameters"]
    run = api.start("experiment/experiment-tiny", {"spec": {**form["spec"], "seed": 7}})
    mark = f"PREFECT__FLOW_RUN_ID={run}"
    wait_for(lambda: any("training.worker" in line for line in processes_with(mark)), PATIENCE, "the training")
    api.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    began = time.monotonic()
    assert wait_until_gone(mark, 90) == []
    assert api.wait(run, 120)["state"]["type"] == "CANCELLED"
    assert time.monotonic() - began < 90, stack.logs()


def test_a_run_whose_worker_and_process_are_killed_is_begun_again(finished: str, stack: Stack, api: Api) -> None:
    form = api.run(finished)["parameters"]
    run = api.start("experiment/experiment-tiny", {"spec": {**form["spec"], "seed": 8}})
    mark = f"PREFECT__FLOW_RUN_ID={run}"
    wait_for(lambda: any("training.worker" in line for line in processes_with(mark)), PATIENCE, "the training")
    time.sleep(35)  # one heartbeat
    os.killpg(stack.workers["cpu"].pid, signal.SIGKILL)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_of(entry, mark):
            os.kill(int(entry.name), signal.SIGKILL)
    end(stack.workers["cpu"])
    stack.start_worker("cpu")
    ended = api.wait(run, PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", stack.logs()
    assert ended["run_count"] >= 2


def test_a_finished_training_is_evaluated_by_the_automation(finished: str, api: Api) -> None:
    parameters = api.run(finished)["parameters"]["spec"]
    [shards] = {
        row["value"] for table in _tables(api, finished, "checkpoints") for row in _rows(table) if row["what"] == "input: shards"
    }
    run = api.start("train/train-tiny", {"spec": {"shards": [shards], "scale": parameters["scale"], "seed": 9}})
    assert api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED"
    [checkpoint] = {
        row["value"] for table in _tables(api, run, "checkpoints") for row in _rows(table) if row["what"] == "address"
    }
    asked = {"flow_runs": {"deployment_id": {"any_": [api.form("reevaluate/reevaluate-tiny")["id"]]}}}

    def begun() -> list[Any]:
        """Evaluations of this checkpoint; tests run in any order, so there are others."""
        return [one for one in api.runs(**asked) if one["parameters"].get("spec", {}).get("checkpoints") == [checkpoint]]

    evaluation = wait_for(begun, PATIENCE, "the evaluation")[0]
    assert api.wait(evaluation["id"], PATIENCE)["state"]["type"] == "COMPLETED"


def test_the_schedule_fires(finished: str, api: Api) -> None:
    form = api.form("reevaluate/reevaluate-tiny")
    [schedule] = form["schedules"]
    assert schedule["active"]
    at = f"/deployments/{form['id']}/schedules/{schedule['id']}"
    api.call("PATCH", at, {"active": True, "schedule": {"cron": "* * * * *"}})
    asked = {"flow_runs": {"deployment_id": {"any_": [form["id"]]}, "tags": {"all_": ["auto-scheduled"]}}}
    try:
        done = wait_for(lambda: [run for run in api.runs(**asked) if run["state"]["type"] in FINAL], 400, "a scheduled run")
    finally:
        api.call("PATCH", at, {"active": True, "schedule": {"cron": schedule["schedule"]["cron"]}})
    assert done[0]["state"]["type"] == "COMPLETED"


def test_a_score_that_is_not_what_it_was_raises_an_alarm(
    finished: str, stack: Stack, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(address, report)] = [
        (checkpoint["value"], table["value"])
        for rows in map(_rows, _tables(api, finished, "reports"))
        for checkpoint in rows
        for table in rows
        if checkpoint["what"] == "input: checkpoint" and table["what"] == "address"
    ]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, stack.environment[name])
    store = Store.open(stack.environment["DATACOMP_STORE"])
    record = store.record(report)
    assert record is not None
    folder = store.folder(store.artifact(EvalReport, record))
    before = folder.read(REPORT)
    told = folder.read_json(REPORT)
    told["tasks"][0]["value"] += 0.1  # as if a library had changed what it gives
    folder.write_json(REPORT, told)
    spec = {"scale": "tiny", "checkpoints": [address]}
    try:
        ended = api.wait(api.start("reevaluate/reevaluate-tiny", {"spec": spec}), PATIENCE)
    finally:
        folder.write(REPORT, before)  # tests run in any order
    assert ended["state"]["type"] == "FAILED"
    assert told["tasks"][0]["key"] in ended["state"]["message"]
    assert "drift-tiny" in {artifact["key"] for artifact in api.artifacts(ended["id"]) if artifact["type"] == "table"}
    asked = {"filter": {"event": {"name": ["datacomp.evaluation.drifted"]}}, "limit": 5}
    assert wait_for(lambda: api.call("POST", "/events/filter", asked)["events"], 60, "the event")


def test_one_gpu_run_at_a_time_and_the_others_wait_where_one_sees_them(stack: Stack, api: Api) -> None:
    pool = api.call("GET", "/work_pools/gpu")
    assert pool["concurrency_limit"] == 1
    stack.start_worker("gpu")
    broken = {"step": "no-such-step", "identity": []}
    runs = [api.start("gpu-step/gpu-step-tiny", broken) for _ in range(3)]
    assert {api.wait(run, PATIENCE)["state"]["type"] for run in runs} == {"FAILED"}
    spans = sorted((run["start_time"], run["end_time"]) for run in map(api.run, runs))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def _tables(api: Api, run: str, kind: str) -> list[dict[str, Any]]:
    """The summaries that the steps of one kind left."""
    tables = [artifact for artifact in api.artifacts(run) if artifact["type"] == "table"]
    return [table for table in tables if (table["description"] or "").startswith(kind)]


def _rows(artifact: dict[str, Any]) -> list[dict[str, str]]:
    data = artifact["data"]
    return json.loads(data) if isinstance(data, str) else data


def _is_of(entry: Path, mark: str) -> bool:
    try:
        return mark.encode() in (entry / "environ").read_bytes()
    except OSError:
        return False
