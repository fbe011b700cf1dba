"""Apply the catalog to the server: work pools first, then every deployment. Applying twice is the same as applying once."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from deployments.catalog import ROWS, Row
from deployments.work_pools import POOLS


def deployment(row: Row) -> RunnerDeployment:
    """A row as Prefect's own object. The entry point is a module, since a path would load a second copy of it."""
    row.flow.validate_parameters(row.parameters)
    return RunnerDeployment.from_flow(
        row.flow,
        name=row.scale,
        parameters=row.parameters,
        tags=["datacomp", row.scale, *row.tags],
        concurrency_limit=row.concurrency,
        work_pool_name=row.work_pool,
        job_variables=row.job_variables,
        description=row.flow.description,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def apply_work_pools() -> None:
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            try:
                client.read_work_pool(pool.name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type, description=pool.description))


def apply_all() -> list[dict[str, str]]:
    """Every row on the server; what was applied, as plain rows."""
    apply_work_pools()
    applied: list[dict[str, str]] = []
    for row in ROWS:
        identity = deployment(row).apply()
        applied.append(
            {
                "name": f"{row.flow.name}/{row.scale}",
                "id": str(identity),
                "work_pool": row.work_pool,
                "parameters": ", ".join(sorted(row.parameters["spec"])),
            }
        )
    return applied
