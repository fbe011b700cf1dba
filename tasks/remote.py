"""Runs GPU steps on GPU workers: hands a step that is not built to another deployment, and reads its artifact from the store.
Only the step's name and identity are sent; the result is in the store. Two runs that need the same artifact share the run that
makes it. A flow that is cancelled or lost also stops the runs it requested (`flows/task_calls.py`).
"""

from __future__ import annotations

import logging
import time
import typing
from datetime import UTC, datetime
from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from pydantic import TypeAdapter

from datacomp_core.errors import DatacompError
from datacomp_core.settings import settings
from datacomp_core.store import Step, Store
from datacomp_core.store.fingerprint import SHORT
from datacomp_core.store.step import STEPS
from tasks.concurrency import ON_THE_GPU

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
PATIENCE_SECONDS = 60.0
OVER_NODES = frozenset({"checkpoints"})
UNDER_WAY = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED)


def needs_gpu_worker(step: Step[Any], identity: tuple[Any, ...], store: Store) -> bool:
    """Return whether a step is for a GPU worker, a deployment for it exists, and it is not built yet."""
    return bool(settings().gpu_deployment) and is_for_gpu(step, identity) and not step.plan(*identity, store=store).is_built


def is_for_gpu(step: Step[Any], identity: tuple[Any, ...]) -> bool:
    """Decide by its kind; computed scores declare it."""
    return step.kind in ON_THE_GPU or any(getattr(item, "on_gpu", False) for item in identity)


def key(step: Step[Any]) -> str:
    """Return the name of a step in `gpu-step`."""
    return next(name for name, known in STEPS.items() if known is step)


def packed(identity: tuple[Any, ...]) -> list[Any]:
    """An identity as plain JSON."""
    return [[item.model_dump(mode="json") for item in value] if isinstance(value, tuple) else _plain(value) for value in identity]


def unpacked(step: Step[Any], given: list[Any]) -> tuple[Any, ...]:
    """Parse the identity again, checked against the step's inputs."""
    hints = typing.get_type_hints(step.function, include_extras=True)  # an annotation says how to parse a score of any kind
    return tuple(TypeAdapter(hints[name]).validate_python(value) for name, value in zip(step.identity, given, strict=True))


def build(step: Step[Any], identity: tuple[Any, ...], name: str) -> None:
    """Let the deployment in the settings build a step, and wait for it. DatacompError if its run does not complete."""
    deployment, tag = settings().gpu_deployment, f"step:{step.fingerprint(*identity)[:SHORT]}"
    with get_client(sync_client=True) as client:
        run = _under_way(client, tag)
        if run is None:
            run = cast(
                "FlowRun",  # outside an event loop it is not a coroutine
                run_deployment(
                    deployment,
                    parameters={"step": key(step), "identity": packed(identity)},
                    flow_run_name=f"{step.kind}-{name}",
                    tags=["datacomp", tag],
                    job_variables=None if step.kind in OVER_NODES else {"nodes": 1},
                    timeout=0,
                ),
            )
        log.info("%s %s is built by the run %s of %s", step.kind, name, run.name, deployment)
        while not _is_over(run):
            time.sleep(POLL_SECONDS)
            run = client.read_flow_run(run.id)
    assert run.state is not None
    if not run.state.is_completed():
        raise DatacompError(
            f"The run {run.name} of {deployment} for {step.kind} {name} ended as {run.state.name}: "
            f"{run.state.message or 'see its page'}."
        )


def _is_over(run: FlowRun) -> bool:
    """The server restarts a crashed run; until then it is not finished."""
    if run.state is None or not run.state.is_final():
        return False
    since = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    return not (run.state.is_crashed() and run.run_count < settings().attempts and since < PATIENCE_SECONDS)


def _under_way(client: SyncPrefectClient, tag: str) -> FlowRun | None:
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(UNDER_WAY))),
    )
    return next(iter(client.read_flow_runs(flow_run_filter=wanted, limit=1)), None)


def _plain(value: Any) -> Any:
    return None if value is None else value.model_dump(mode="json")
