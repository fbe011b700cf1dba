"""The work pools as rows. A flow's own work goes to `cpu`; at `small` and above training, embedding, heavy scores and evaluation
go to `gpu`.

On one machine and under Slurm both are process pools: `datacomp worker cpu` takes their runs as processes of its machine. With
Docker or Kubernetes each run gets a container of its own, by the templates beside this file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["process", "docker", "kubernetes"]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class WorkPool:
    """`concurrency` runs at most are at work in it at once, on all its workers; the others wait where one sees them."""

    name: str
    description: str
    concurrency: int | None = None


POOLS: tuple[WorkPool, ...] = (
    WorkPool("cpu", "Pools, filters, shards, boards; and all of `tiny`. One worker a machine: datacomp worker cpu"),
    WorkPool("gpu", "One training, embedding, scoring or evaluation a GPU machine at a time: datacomp worker gpu", concurrency=1),
)


def template(kind: Kind, pool: str) -> dict[str, Any]:
    """The base job template of a pool."""
    if kind == "process":
        return _of_processes()
    return json.loads((HERE / kind / f"{pool}-pool.json").read_text(encoding="utf-8"))


def _of_processes() -> dict[str, Any]:
    """Prefect's own, and what a run asks of its machine: told to who starts workers, and enforced where pools can."""
    from prefect.workers.process import ProcessWorker

    made = ProcessWorker.get_default_base_job_template()
    asked = {
        "gpus": {"type": "integer", "title": "GPUs", "default": 0, "description": "GPUs a node that a run asks for."},
        "nodes": {"type": "integer", "title": "Nodes", "default": 1, "description": "Machines that one training spans."},
        "memory_gib": {"type": "integer", "title": "Memory", "default": 8, "description": "Main memory a node, in GiB."},
    }
    made["variables"]["properties"].update(asked)
    return made
