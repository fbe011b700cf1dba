"""`datacomp deploy` against a real server: every row arrives as it stands in the catalog, and twice is once."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from deployments.apply import apply_all, deployment
from deployments.automations import lost_runs
from deployments.catalog import ROWS, Row
from deployments.work_pools import POOLS


def on_the_server() -> tuple[dict[str, Any], dict[str, Any]]:
    """Deployments by `flow/name` and work pools by name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        found = {f"{flows[one.flow_id]}/{one.name}": one for one in client.read_deployments()}
        return found, {pool.name: pool for pool in client.read_work_pools()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_complete(row: Row) -> None:
    module, _, name = row.entrypoint.rpartition(".")
    assert getattr(importlib.import_module(module), name) is row.flow
    if row.parameters:
        row.flow.validate_parameters(row.parameters)
    assert row.work_pool in {pool.name for pool in POOLS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_run_of_any_worker_beats_thrice_before_it_counts_as_lost(row: Row) -> None:
    environment = deployment(row).job_variables["env"]
    every = float(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert lost_runs().trigger.within.total_seconds() >= 3 * every  # pyright: ignore[reportAttributeAccessIssue]
    assert environment["PREFECT_LOGGING_EXTRA_LOGGERS"] == "datacomp_core"


def test_what_measures_or_trains_is_on_gpus_but_for_tiny() -> None:
    pools = {row.name: row.work_pool for row in ROWS}
    assert pools["reevaluate/tiny"] == "cpu"
    assert {name for name, pool in pools.items() if pool == "gpu"} == {
        *(f"gpu-step/{row.deployment}" for row in ROWS),
        *(f"reevaluate/{row.deployment}" for row in ROWS if row.deployment != "tiny"),
    }


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("scales", [("tiny",), pytest.param((), marks=pytest.mark.slow)], ids=["tiny", "all"])
def test_applied_twice_is_applied_once(scales: tuple[str, ...]) -> None:
    rows = [row for row in ROWS if not scales or row.deployment in scales]
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
    assert {name: pool.id for name, pool in pools_again.items()} == {name: pool.id for name, pool in pools.items()}


@pytest.mark.usefixtures("prefect_server")
def test_a_wrong_value_is_refused_before_anything_starts() -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    apply_all(scales=("tiny",))
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("experiment/tiny")
        before = len(client.read_flow_runs())
        for wrong in ({"seed": "many"}, {"scale": "huge"}, {"sed": 1}):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(there.id, parameters={"spec": {**there.parameters["spec"], **wrong}})
        assert len(client.read_flow_runs()) == before
