"""Apply the catalog to the server: work pools, deployments, automations. Applying twice is the same as applying once.

What an operator changes on the server by hand and the catalog does not name (a pool's concurrency, a paused pool) stays.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from datacomp_core.errors import SpecError
from deployments import automations
from deployments.catalog import ROWS, Row
from deployments.work_pools import POOLS, Kind, template


def deployment(row: Row) -> RunnerDeployment:
    """A row as Prefect's own object. The entry point is a module, since a path would load a second copy of it."""
    if row.parameters:
        row.flow.validate_parameters(row.parameters)
    return RunnerDeployment.from_flow(
        row.flow,
        name=row.deployment,
        parameters=row.parameters,
        tags=["datacomp", *row.tags],
        concurrency_limit=row.concurrency,
        cron=row.cron,
        work_pool_name=row.work_pool,
        job_variables=row.job_variables,
        description=row.flow.description,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def apply_work_pools(client: SyncPrefectClient, kind: Kind) -> None:
    """Make the pools that are missing, and renew the templates of those that are there. SpecError if one is of another kind."""
    for pool in POOLS:
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
            raise SpecError(
                f"The work pool {pool.name!r} is of type {there.type}, not {kind}: name that type, or delete the pool."
            )
        client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template(kind, pool.name)))


def apply_all(kind: Kind = "process", scales: Collection[str] = ()) -> list[dict[str, str]]:
    """Everything on the server, or only the rows of some scales; the deployments that were applied, as plain rows."""
    rows = [row for row in ROWS if not scales or row.deployment in scales]
    with get_client(sync_client=True) as client:
        apply_work_pools(client, kind)
        applied: dict[str, UUID] = {row.name: _applied(row) for row in rows}
        automations.apply(client, automations.catalog(applied))
    return [
        {"name": row.name, "id": str(applied[row.name]), "work_pool": row.work_pool, "schedule": row.cron or ""} for row in rows
    ]


def _applied(row: Row) -> UUID:
    made: Any = deployment(row).apply()
    return made
