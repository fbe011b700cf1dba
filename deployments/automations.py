"""Defines the server's automations: it evaluates finished trainings. A server that is not ours also restarts lost runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import BaseModel

from datacomp_core.scales import SCALES
from deployments.lost_runs import BEAT, HEADER, LOST_AFTER_SECONDS
from tasks.train import TRAINED

OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.datacomp"}
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry")}
LOST = "datacomp: mark lost runs as crashed"
CRASHED = "datacomp: restart crashed runs"


def lost_runs() -> AutomationCore:
    """Mark a run as crashed when its heartbeats stop. Only for a server that is not ours and does not check by itself. Our own
    server (`lost_runs.py`) decides more reliably: after an outage of the server this trigger also fires for live runs.
    """
    return AutomationCore(
        name=LOST,
        description=f"No heartbeat for {LOST_AFTER_SECONDS} s.",
        trigger=EventTrigger(
            after={BEAT},
            expect={BEAT, *ENDS},
            match_related=OURS,  # pyright: ignore[reportArgumentType] - Prefect makes a specification of it
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=LOST_AFTER_SECONDS),
        ),
        actions=[
            _action(
                ChangeFlowRunState,
                state=StateType.CRASHED,
                message=f"The worker of this run sent no heartbeat for {LOST_AFTER_SECONDS} s.",
            )
        ],
    )


def crashed_runs() -> AutomationCore:
    """Restart a crashed run; it resumes from what its steps left. Only for a server that is not ours."""
    return AutomationCore(
        name=CRASHED,
        description="At most DATACOMP_ATTEMPTS times: a run that was started too often fails.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match_related=OURS,  # pyright: ignore[reportArgumentType]
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            _action(
                ChangeFlowRunState,
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="The process of this run was lost: the run resumes where it stopped.",
            )
        ],
    )


def evaluations(scale: str, reevaluate: UUID) -> AutomationCore:
    """Evaluate a finished training."""

    def value(label: str) -> dict[str, str]:
        return {"__prefect_kind": "jinja", "template": f"{{{{ event.resource['{label}'] }}}}"}

    return AutomationCore(
        name=f"datacomp: evaluate a training of {scale}",
        trigger=EventTrigger(
            expect={TRAINED},
            match={"datacomp.scale": scale},  # pyright: ignore[reportArgumentType]
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            _action(
                RunDeployment,
                source="selected",
                deployment_id=reevaluate,
                parameters={"spec": {"scale": scale, "checkpoints": [value("datacomp.address")]}},
            )
        ],
    )


def _action(kind: type[BaseModel], **fields: Any) -> Any:
    """Build a Prefect action; its models are validated on creation, because their defaults are not typed."""
    return kind.model_validate(fields)


def apply(client: SyncPrefectClient, wanted: list[AutomationCore]) -> None:
    """Upsert by name. An equal automation is not updated: an update would discard what Prefect's trigger has counted."""
    for name in {LOST, CRASHED} - {automation.name for automation in wanted}:
        for left in client.read_automations_by_name(name):
            client.delete_automation(left.id)
    for automation in wanted:
        there = next(iter(client.read_automations_by_name(automation.name)), None)
        if there is None:
            client.create_automation(automation)
        elif not _equal(there, automation):
            client.update_automation(there.id, automation)


def _equal(there: AutomationCore, wanted: AutomationCore) -> bool:
    """Return whether the server has the same automation. Being switched off by hand is not a difference."""
    kept = {"id", "enabled", "tags", "owner_resource"}
    one, other = (automation.model_dump(mode="json", exclude=kept) for automation in (there, wanted))
    for dumped in (one, other):
        dumped["trigger"].pop("id", None)
        for events in ("after", "expect"):  # sets, which have no fixed order when dumped
            dumped["trigger"][events] = sorted(dumped["trigger"][events])
    return one == other


def looks_for_lost_runs(client: SyncPrefectClient) -> bool:
    """Whether the server is one of ours."""
    return HEADER in client.request("GET", "/health").headers


def catalog(deployments: dict[str, Any], *, server_looks: bool) -> list[AutomationCore]:
    """Return all automations for the deployments (`flow/name` to id) on a server."""
    prefix = "reevaluate/reevaluate-"
    own = {name.removeprefix(prefix): id_ for name, id_ in deployments.items() if name.startswith(prefix)}
    lost = () if server_looks else (lost_runs(), crashed_runs())
    return [*lost, *(evaluations(scale, id_) for scale, id_ in own.items() if scale in SCALES)]
