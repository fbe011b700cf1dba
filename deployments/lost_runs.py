"""Finds runs whose process is gone, at the server's start and every half minute, and restarts them. A check judges only a
period that it could observe: each check sends its own event, and the period counts if the database returned these events
without a gap. An outage of the server, the database or the events therefore does not make a run lost. Prefect's own automations
cannot do this. An update of the automation discards what its trigger counted. After an outage of the server the trigger fires
for live runs. A restarted server delays the event of a crash by a quarter of an hour if it did not see the state before it
(`server/events/ordering`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import AwaitingRetry, Cancelled, Crashed

logger = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 30
LOST_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS
BEAT = "prefect.flow-run.heartbeat"
HEADER = "X-Datacomp-Watches-Runs"
"""Sent with every answer of a server that checks for lost runs."""
LOOK = "datacomp.server.looked-for-lost-runs"
SERVER = "datacomp.server"
TAG = "datacomp"
PAGE = 200
CRASHED_SECONDS = 24 * 3600
"""A run that crashed earlier is left to the operator."""
NEVER_STARTED_SECONDS = 900
"""A worker took a run this long ago, and its process never reported that it runs. Only for workers that start processes: a
container may wait for its image or machine without a limit."""


class LostRunWatcher:
    """Checks one server. `every` and `lost_after` in seconds; runs send a heartbeat every `HEARTBEAT_SECONDS`."""

    def __init__(
        self, client: SyncPrefectClient, every: float = HEARTBEAT_SECONDS, lost_after: float = LOST_AFTER_SECONDS
    ) -> None:
        self._client = client
        self._every = timedelta(seconds=every)
        self._lost_after = timedelta(seconds=lost_after)

    def look(self) -> list[str]:
        """Check once: mark lost runs and restart crashed ones. Returns the names of marked runs, usually none."""
        now = datetime.now(UTC)
        marked = self._mark_lost(now)
        self._begin_again(now)
        return marked

    def _mark_lost(self, now: datetime) -> list[str]:
        since = now - self._lost_after
        seen = self._looks(since - 2 * self._every)
        self._send(now)
        if not _without_gap(seen, since, now, 2 * self._every):
            return []
        found: list[str] = []
        for run in [*self._silent(since), *self._never_started(now)]:
            if self._mark(run):
                found.append(run.name)
        return found

    def _begin_again(self, now: datetime) -> None:
        """Restart our crashed runs, which resume from what their steps left; `tasks/run_step.py` limits how often."""
        recent: Any = now - timedelta(seconds=CRASHED_SECONDS)
        crashed = self._runs(StateType.CRASHED, end_time=FlowRunFilterEndTime(after_=recent))
        for run in crashed:
            if TAG in run.tags and run.deployment_id is not None:
                again = AwaitingRetry(message="The process of this run was lost: the run resumes where it stopped.")
                if not self._set(run, again):
                    logger.warning("The run %s crashed and cannot be restarted now.", run.name)

    def _send(self, now: datetime) -> None:
        event = {
            "id": str(uuid4()),
            "event": LOOK,
            "occurred": now.isoformat(),
            "resource": {"prefect.resource.id": SERVER},
        }
        self._client.request("POST", "/events", json=[event])

    def _looks(self, since: datetime) -> list[datetime]:
        """Return the times of the checks that the database returned, oldest first; at most one page."""
        wanted = {"event": {"name": [LOOK]}, "occurred": {"since": since.isoformat()}, "order": "DESC"}
        answer = self._client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50}).json()
        return sorted(datetime.fromisoformat(event["occurred"]) for event in answer["events"])

    def _silent(self, since: datetime) -> list[FlowRun]:
        """Return runs that started before `since` and sent nothing after it."""
        runs = [run for run in self._runs(StateType.RUNNING, StateType.CANCELLING) if _entered(run) < since]
        beating = self._beating(since)
        silent = [run for run in runs if str(run.id) not in beating]
        return [run for run in silent if self._beats(run) and not self._has_logged(run.id, since)]

    def _never_started(self, now: datetime) -> list[FlowRun]:
        since = now - max(timedelta(seconds=NEVER_STARTED_SECONDS), self._lost_after)
        waiting = [run for run in self._runs(StateType.PENDING) if TAG in run.tags and _entered(run) < since]
        pools = {run.work_pool_name for run in waiting if run.work_pool_name}
        processes = {name for name in pools if self._client.read_work_pool(name).type == "process"}
        return [run for run in waiting if run.work_pool_name in processes]

    def _runs(self, *types: StateType, end_time: FlowRunFilterEndTime | None = None) -> list[FlowRun]:
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))), end_time=end_time)
        found: list[FlowRun] = []
        while page := self._client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
            found += page
        return found

    def _beating(self, since: datetime, run: UUID | None = None) -> set[str]:
        """Return the ids of the runs (or of one) that have sent a heartbeat since then."""
        wanted: dict[str, Any] = {"event": {"name": [BEAT]}, "occurred": {"since": since.isoformat()}}
        if run is not None:
            wanted["resource"] = {"id": [f"prefect.flow-run.{run}"]}
        counts = self._client.request(
            "POST", "/events/count-by/{countable}", path_params={"countable": "resource"}, json={"filter": wanted}
        ).json()
        return {count["value"].removeprefix("prefect.flow-run.") for count in counts}

    def _beats(self, run: FlowRun) -> bool:
        """Return whether its process sends heartbeats: all runs of our deployments do, and others that have sent one before."""
        if TAG in run.tags and run.deployment_id is not None:
            return True
        began = run.start_time or _entered(run)
        return bool(self._beating(began, run.id))

    def _has_logged(self, run: UUID, since: datetime) -> bool:
        after: Any = since  # Prefect's own subclass of datetime, from its model
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]), timestamp=LogFilterTimestamp(after_=after))
        return bool(self._client.read_logs(wanted, limit=1))

    def _mark(self, run: FlowRun) -> bool:
        """Mark a run as lost: a run that was being cancelled is cancelled, any other has crashed."""
        state = _verdict(run, self._lost_after)
        if not self._set(run, state):
            return False
        logger.warning("The run %s: %s", run.name, state.message)
        return True

    def _set(self, run: FlowRun, state: State[Any]) -> bool:
        """Set a run's state, unless it continued meanwhile. Returns whether it was set."""
        now = self._client.read_flow_run(run.id)
        if now.state is None or run.state is None or now.state.id != run.state.id:
            return False
        return self._client.set_flow_run_state(run.id, state).status == SetStateStatus.ACCEPT


def _verdict(run: FlowRun, lost_after: timedelta) -> State[Any]:
    seconds = round(lost_after.total_seconds())
    if run.state is not None and run.state.type == StateType.CANCELLING:
        return Cancelled(message=f"The process of this run is gone: no heartbeat for {seconds} s.")
    if run.state is not None and run.state.type == StateType.PENDING:
        return Crashed(
            message=f"A worker took this run {NEVER_STARTED_SECONDS // 60} minutes ago, and its process never started."
        )
    return Crashed(message=f"The process of this run sent no heartbeat for {seconds} s.")


def _entered(run: FlowRun) -> datetime:
    assert run.state is not None
    return run.state.timestamp


def _without_gap(seen: Sequence[datetime], since: datetime, until: datetime, most: timedelta) -> bool:
    """Return whether there was an observation before `since`, and from then to `until` at least every `most`."""
    before = [time for time in seen if time <= since]
    if not before:
        return False
    stretch: Iterable[datetime] = [before[-1], *(time for time in seen if since < time < until), until]
    return all(later - earlier <= most for earlier, later in pairwise(stretch))


def start(client: Callable[[], SyncPrefectClient], every: float = HEARTBEAT_SECONDS) -> threading.Event:
    """Check a server from a thread of this process until the returned event is set."""
    stop = threading.Event()

    def looks() -> None:
        told = ""
        while not stop.wait(every):
            try:
                with client() as connected:
                    LostRunWatcher(connected).look()
                told = ""
            except Exception as problem:  # the server or its database is unavailable: check again later
                if told != (told := f"{type(problem).__name__}: {problem}".splitlines()[0]):
                    logger.warning("Cannot check for lost runs at present: %s", told)

    threading.Thread(target=looks, name="lost-runs", daemon=True).start()
    return stop
