"""Applies the catalog to the server: work pools, deployments, automations. Applying is idempotent. Settings that an operator
changed on the server and that the catalog does not define (a pool's concurrency, a paused pool, a schedule that was switched on
or off) are kept. A schedule is active only if a worker can execute its runs: for a pool without a worker it is applied
inactive, and `datacomp worker` activates it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema

from datacomp_core.errors import SpecError
from datacomp_core.scales import SCALES
from deployments import automations, forms
from deployments.catalog import ROWS, DeploymentRow
from deployments.work_pools import POOLS, Kind, template

TAG = "datacomp"
WAITS = "waits-for-a-worker"
"""Marks a schedule that was applied inactive because its work pool had no worker."""
ON = "scheduled"
COMPARED = ("parameters", "job_variables", "description", "entrypoint", "work_pool_name", "version", "enforce_parameter_schema")


def deployment(row: DeploymentRow, *, active: bool = True, slug: str = ON) -> RunnerDeployment:
    """Convert a row to Prefect's object. The entry point is a module, because a path would load a second copy of it."""
    if row.parameters:
        row.flow.validate_parameters(row.parameters)
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron=row.cron), active=active, slug=slug) if row.cron else None
    return RunnerDeployment.from_flow(
        row.flow,
        name=row.deployment,
        parameters=row.parameters,
        tags=[TAG, *row.tags],
        concurrency_limit=row.concurrency,
        schedules=[schedule] if schedule else None,
        work_pool_name=row.work_pool,
        job_variables=row.job_variables,
        description=row.flow.description,
        version=row.flow.version,  # else Prefect writes git's commit where there is one, and each commit makes all rows unequal
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def chosen_rows(scales: Collection[str] = (), pools: Collection[str] = ()) -> list[DeploymentRow]:
    """Return the rows of the given scales and work pools; by default all."""
    return [row for row in ROWS if (not scales or row.scale in scales) and (not pools or row.work_pool in pools)]


def apply_work_pools(client: SyncPrefectClient, kind: Kind, names: Collection[str]) -> None:
    """Create missing work pools and update the templates of existing ones. SpecError if an existing pool has another type."""
    for pool in (pool for pool in POOLS if pool.name in names):
        try:
            there = client.read_work_pool(pool.name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=pool.name,
                    type=kind,
                    description=pool.description,
                    concurrency_limit=pool.concurrency,
                    base_job_template=template(kind, pool.name),
                )
            )
            continue
        if there.type != kind:
            raise SpecError(f"The work pool {pool.name!r} has type {there.type}, not {kind}: use that type, or delete the pool.")
        client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template(kind, pool.name)))


def apply_all(
    kind: Kind = "process",
    scales: Collection[str] = (),
    pools: Collection[str] = (),
    applied: Callable[[DeploymentRow], None] = lambda row: None,
) -> list[dict[str, str]]:
    """Apply the rows of the given scales and work pools (by default all) to the server; call `applied` for each. Returns plain
    rows."""
    rows = chosen_rows(scales, pools)
    with get_client(sync_client=True) as client:
        apply_work_pools(client, kind, {row.work_pool for row in rows})
        ready = {pool.name for pool in client.read_work_pools() if pool.status == WorkPoolStatus.READY}
        ours = _ours(client)
        there = {one.name: one for one in ours}
        ids: dict[str, UUID] = {}
        active: dict[str, bool] = {}
        for row in rows:
            ids[row.name], active[row.name] = _applied(client, row, there.get(row.deployment), row.work_pool in ready)
            applied(row)
        _retire(client, ours)
        automations.apply(client, automations.catalog(ids, server_looks=automations.looks_for_lost_runs(client)))
    return [
        {"name": row.deployment, "id": str(ids[row.name]), "work_pool": row.work_pool, "schedule": _told(row, active[row.name])}
        for row in rows
    ]


def _ours(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """The deployments of this project on the server."""
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=wanted, limit=100, offset=len(found)):
        found += page
    return found


def _applied(client: SyncPrefectClient, row: DeploymentRow, there: DeploymentResponse | None, ready: bool) -> tuple[UUID, bool]:
    """Apply one row with its form; return its id and whether its schedule is active."""
    active, slug = (True, ON) if ready else (False, WAITS)
    if there is not None and there.schedules and there.schedules[0].slug != WAITS:
        active, slug = there.schedules[0].active, ON  # keep what an operator set
    wanted, schema = deployment(row, active=active, slug=slug), _schema(row)
    if there is not None and _is_equal(there, wanted, schema):
        return there.id, active
    id_: Any = wanted.apply()
    if row.parameters:
        client.update_deployment(id_, DeploymentUpdate(parameter_openapi_schema=schema))
    return id_, active


def _schema(row: DeploymentRow) -> dict[str, Any]:
    """The form of a row that has initial values; else the parameters of its flow."""
    schema = forms.form(row.flow, row.scale) if row.parameters else parameter_schema(row.flow)
    return schema.model_dump(exclude_unset=True)


def _is_equal(there: DeploymentResponse, wanted: RunnerDeployment, schema: dict[str, Any]) -> bool:
    """Whether the server already has what would be applied. What is equal is not touched."""
    limit = there.global_concurrency_limit
    return (there.parameter_openapi_schema, set(there.tags), limit.limit if limit else None, _schedules(there)) == (
        schema,
        set(wanted.tags or ()),
        wanted.concurrency_limit,
        _schedules(wanted),
    ) and all(getattr(there, name) == getattr(wanted, name) for name in COMPARED)


def _schedules(one: DeploymentResponse | RunnerDeployment) -> list[tuple[Any, ...]]:
    found = one.schedules or ()
    return [(each.schedule and each.schedule.model_dump(), each.active, each.slug) for each in found]


def _retire(client: SyncPrefectClient, ours: Iterable[DeploymentResponse]) -> None:
    """Delete deployments under the names of an earlier release (`experiment/tiny`). Their runs stay."""
    for one in ours:
        if one.name in SCALES:
            client.delete_deployment(one.id)


def _told(row: DeploymentRow, active: bool) -> str:
    if row.cron is None:
        return ""
    return row.cron if active else f"{row.cron} (off: no worker in pool {row.work_pool} yet)"


def start_schedules(pool: str) -> list[str]:
    """Activate the schedules that waited for a worker of this pool. Returns the names of their deployments."""
    started: list[str] = []
    with get_client(sync_client=True) as client:
        for one in _ours(client):
            for schedule in one.schedules:
                if one.work_pool_name == pool and schedule.slug == WAITS:
                    client.update_deployment_schedule(one.id, schedule.id, active=True, slug=ON)
                    started.append(one.name)
    return started
