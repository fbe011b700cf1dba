"""The work pools that the rows of the catalog name, as rows: `cpu` runs flows as processes of the machine its worker is on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkPool:
    name: str
    type: str
    description: str


POOLS: tuple[WorkPool, ...] = (
    WorkPool("cpu", "process", "Flows as processes: start a worker with `prefect worker start --pool cpu`."),
)
