"""`datacomp deploy` against a real server: every row arrives as it stands in the catalog, and twice is once."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
from prefect.deployments.runner import RunnerDeployment

from datacomp_core.scales import SCALES
from deployments.apply import WAITS, apply_all, deployment, start_schedules
from deployments.automations import lost_runs
from deployments.catalog import ROWS, DeploymentRow
from deployments.work_pools import POOLS


def on_the_server() -> tuple[dict[str, Any], dict[str, Any]]:
    """Deployments by `flow/name` and work pools by name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        found = {f"{flows[one.flow_id]}/{one.name}": one for one in client.read_deployments()}
        return found, {pool.name: pool for pool in client.read_work_pools()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_complete(row: DeploymentRow) -> None:
    module, _, name = row.entrypoint.rpartition(".")
    assert getattr(importlib.import_module(module), name) is row.flow
    if row.parameters:
        row.flow.validate_parameters(row.parameters)
    assert row.work_pool in {pool.name for pool in POOLS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_run_of_any_worker_beats_thrice_before_it_counts_as_lost(row: DeploymentRow) -> None:
    environment = deployment(row).job_variables["env"]
    every = float(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert lost_runs().trigger.within.total_seconds() >= 3 * every  # pyright: ignore[reportAttributeAccessIssue]
    assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "datacomp_core"


def test_what_measures_or_trains_is_on_gpus_but_for_tiny() -> None:
    pools = {row.name: row.work_pool for row in ROWS}
    assert pools["reevaluate/reevaluate-tiny"] == "cpu"
    assert {name for name, pool in pools.items() if pool == "gpu"} == {
        *(f"gpu-step/gpu-step-{scale}" for scale in SCALES),
        *(f"reevaluate/reevaluate-{scale}" for scale in SCALES if scale != "tiny"),
    }


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("scales", [("tiny",), pytest.param((), marks=pytest.mark.slow)], ids=["tiny", "all"])
def test_applied_twice_is_applied_once(scales: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in ROWS if not scales or row.scale in scales]
    first = apply_all(scales=scales)
    deployments, pools = on_the_server()
    assert set(deployments) == {row.name for row in rows}
    assert set(pools) >= {pool.name for pool in POOLS}
    for row in rows:
        there = deployments[row.name]
        assert there.parameters == row.parameters
        assert there.entrypoint == row.entrypoint
        assert there.work_pool_name == row.work_pool
        assert there.enforce_parameter_schema
        assert {"datacomp", *row.tags} <= set(there.tags)
        assert [schedule.schedule.cron for schedule in there.schedules] == ([row.cron] if row.cron else [])
    assert apply_all(scales=scales) == first
    again, pools_again = on_the_server()
    assert {name: one.id for name, one in again.items()} == {name: one.id for name, one in deployments.items()}
    written: list[str] = []
    write = RunnerDeployment.apply
    monkeypatch.setattr(
        RunnerDeployment, "apply", lambda one, *given, **more: written.append(one.name) or write(one, *given, **more)
    )
    assert apply_all(scales=scales) == first
    assert not written, "what is equal is not touched"
    assert {name: pool.id for name, pool in pools_again.items()} == {name: pool.id for name, pool in pools.items()}


@pytest.mark.usefixtures("prefect_server")
def test_what_was_changed_by_hand_is_as_in_the_catalog_again() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    apply_all(scales=("tiny",))
    before = on_the_server()[0]["experiment/experiment-tiny"]
    changes = [
        {"parameters": {}},
        {"job_variables": {"env": {}}},
        {"description": "Another."},
        {"parameter_openapi_schema": {"type": "object", "properties": {}}},
        {"tags": ["datacomp"]},
        {"concurrency_limit": 3},
    ]
    for change in changes:
        with get_client(sync_client=True) as client:
            client.update_deployment(before.id, DeploymentUpdate(**change))
        apply_all(scales=("tiny",))
        after = on_the_server()[0]["experiment/experiment-tiny"]
        for name in ("parameters", "job_variables", "description", "parameter_openapi_schema", "global_concurrency_limit"):
            assert getattr(after, name) == getattr(before, name), change
        assert set(after.tags) == set(before.tags)


@pytest.mark.usefixtures("prefect_server")
def test_a_wrong_value_is_refused_before_anything_starts() -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    apply_all(scales=("tiny",))
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("experiment/experiment-tiny")
        before = len(client.read_flow_runs())
        filter_too = {"recipe": "no_filter", "filter": {"kind": "words", "at_least": 4}}
        for wrong in ({"seed": "many"}, {"scale": "huge"}, {"scale": "small"}, {"sed": 1}, {"recipe": ""}, filter_too):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(there.id, parameters={"spec": {**there.parameters["spec"], **wrong}})
        assert len(client.read_flow_runs()) == before


@pytest.mark.usefixtures("prefect_server")
def test_a_schedule_without_a_worker_is_off_until_one_starts_and_stays_as_it_was_left() -> None:
    from prefect.client.orchestration import get_client

    name = "reevaluate/reevaluate-debug"

    def schedule() -> Any:
        return on_the_server()[0][name].schedules[0]

    told = {row["name"]: row["schedule"] for row in apply_all(scales=("debug",))}
    assert (schedule().active, schedule().slug) == (False, WAITS)
    assert "off: no worker in pool gpu" in told["reevaluate-debug"]
    assert "reevaluate-debug" not in start_schedules("cpu")
    assert start_schedules("gpu") == ["reevaluate-debug"]
    assert schedule().active
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name(name)
        client.update_deployment_schedule(there.id, there.schedules[0].id, active=False)  # by hand
    apply_all(scales=("debug",))
    assert start_schedules("gpu") == []
    assert not schedule().active


@pytest.mark.usefixtures("prefect_server")
def test_an_automation_that_is_equal_is_not_touched() -> None:
    from prefect.client.orchestration import get_client

    def updated() -> dict[str, Any]:
        with get_client(sync_client=True) as client:
            return {str(one["id"]): one["updated"] for one in client.request("POST", "/automations/filter", json={}).json()}

    apply_all(scales=("tiny",))
    before = updated()
    apply_all(scales=("tiny",))
    assert before
    assert updated() == before


def test_the_order_of_an_automations_events_is_no_difference() -> None:
    from deployments import automations

    one, other = automations.lost_runs(), automations.lost_runs()
    for order in itertools.permutations(sorted(one.trigger.expect)):
        other.trigger.expect = set(order)
        assert automations._equal(one, other)
    other.trigger.expect = {"another"}
    assert not automations._equal(one, other)


@pytest.mark.usefixtures("prefect_server")
def test_deployments_under_the_names_of_the_last_release_are_deleted() -> None:
    from prefect.client.orchestration import get_client

    from flows.experiment import experiment

    experiment.to_deployment("tiny", tags=["datacomp", "tiny"]).apply()
    experiment.to_deployment("debug", tags=["mine"]).apply()
    apply_all(scales=("tiny",))
    deployments = on_the_server()[0]
    assert "experiment/tiny" not in deployments
    assert "experiment/debug" in deployments  # somebody else's
    with get_client(sync_client=True) as client:
        client.delete_deployment(deployments["experiment/debug"].id)
