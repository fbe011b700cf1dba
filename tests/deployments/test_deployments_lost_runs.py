"""A run whose process is gone is found by its silence, on a real Prefect server; one that gives any sign of life is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Pending, Running

from deployments import lost_runs
from deployments.lost_runs import BEAT, TAG, LostRunWatcher

EVERY, LOST_AFTER = 6.0, 8.0  # the server of the tests writes events down after some seconds
NOW = datetime(2026, 11, 30, tzinfo=UTC)


@flow
def waiting() -> None:
    """Never run: its runs are rows of the server."""


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[UUID]:
    id_ = waiting.to_deployment("ours", tags=[TAG], work_pool_name=None).apply()
    assert isinstance(id_, UUID)
    yield id_
    client.delete_deployment(id_)  # the server is that of all tests


def begun(client: SyncPrefectClient, deployment: UUID) -> UUID:
    run = client.create_flow_run_from_deployment(deployment).id
    client.set_flow_run_state(run, Running(), force=True)
    return run


def beat(client: SyncPrefectClient, run: UUID) -> None:
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    event = {"id": str(uuid4()), "event": BEAT, "occurred": datetime.now(UTC).isoformat(), "resource": resource}
    client.request("POST", "/events", json=[event])


def log(client: SyncPrefectClient, run: UUID) -> None:
    client.create_logs([LogCreate(name="a", level=20, message="at work", timestamp=datetime.now(UTC), flow_run_id=run)])


def state(client: SyncPrefectClient, run: UUID) -> StateType:
    found = client.read_flow_run(run).state
    assert found is not None
    return found.type


def test_silent_runs_are_marked_and_those_with_a_sign_of_life_are_not(client: SyncPrefectClient, deployment: UUID) -> None:
    silent, beating, logging_, cancelled, starting = (begun(client, deployment) for _ in range(5))
    client.set_flow_run_state(cancelled, Cancelling(), force=True)
    client.set_flow_run_state(starting, Pending(), force=True)
    at_a_terminal = client.create_flow_run(waiting, state=Running()).id  # beats, and is of no deployment
    foreign = client.create_flow_run(waiting, state=Running()).id  # a flow that sends no heartbeats
    beat(client, at_a_terminal)
    watch = LostRunWatcher(client, EVERY, LOST_AFTER)
    first = watch.look()
    until = time.monotonic() + 120
    found: list[str] = []
    while len(found) < 3 and time.monotonic() < until:
        beat(client, beating)
        log(client, logging_)
        time.sleep(1)
        found += watch.look()
    assert first == []  # nothing was observed yet
    assert state(client, silent) == StateType.SCHEDULED  # begun again, since a worker can take it
    assert state(client, at_a_terminal) == StateType.CRASHED
    assert state(client, cancelled) == StateType.CANCELLED
    assert state(client, beating) == state(client, logging_) == state(client, foreign) == StateType.RUNNING
    assert state(client, starting) == StateType.PENDING
    assert len(found) == 3
    assert client.read_flow_run(silent).state_name == "AwaitingRetry"
    [crashed] = [one for one in client.read_flow_run_states(silent) if one.type == StateType.CRASHED]
    assert "no heartbeat for 8 s" in (crashed.message or "")


@pytest.mark.parametrize(
    ("ago", "judged"),
    [
        ([100, 70, 40, 10], True),
        ([90, 60, 30], True),
        ([80, 50, 20], False),  # the stretch began before it was observed
        ([100, 70, 5], False),  # the server or its database was away for 65 s
        ([100, 70, 61], False),  # and has been away till now
        ([], False),
    ],
)
def test_a_stretch_counts_only_if_it_was_observed_without_a_gap(ago: list[int], judged: bool) -> None:
    seen = sorted(NOW - timedelta(seconds=seconds) for seconds in ago)
    assert lost_runs._without_gap(seen, NOW - timedelta(seconds=90), NOW, timedelta(seconds=60)) is judged


def test_a_server_that_is_away_is_no_end_of_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def client() -> SyncPrefectClient:
        asked.append(len(asked))
        raise ConnectionError("away")

    stop = lost_runs.start(client, every=0.01)
    until = time.monotonic() + 30
    while len(asked) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    assert len(asked) >= 3
