"""Lists the work pools as rows. A flow's own work goes to `cpu`; at `small` and above training, embedding, heavy scores and
evaluation go to `gpu`. On one machine and under Slurm both are process pools: `datacomp worker cpu` executes their runs as
processes on its machine. With Docker or Kubernetes each run gets its own container, from the templates next to this file.
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
    """At most `concurrency` runs execute at the same time, over all its workers; the others wait visibly in the queue."""

    name: str
    description: str
    concurrency: int | None = None


POOLS: tuple[WorkPool, ...] = (
    WorkPool("cpu", "Pools, filters, shards, boards; and all of `tiny`. One worker per machine: datacomp worker cpu"),
    WorkPool(
        "gpu", "One training, embedding, scoring or evaluation at a time per GPU machine: datacomp worker gpu", concurrency=1
    ),
)


def template(kind: Kind, pool: str) -> dict[str, Any]:
    """The base job template of a pool."""
    if kind == "process":
        return _of_processes()
    return json.loads((HERE / kind / f"{pool}-pool.json").read_text(encoding="utf-8"))


def _of_processes() -> dict[str, Any]:
    """Prefect's own variables, and what a run requests of its machine: shown to whoever starts workers, and enforced where
    pools can."""
    from prefect.workers.process import ProcessWorker

    made = ProcessWorker.get_default_base_job_template()
    asked = {
        "gpus": {"type": "integer", "title": "GPUs", "default": 0, "description": "GPUs per node that a run requests."},
        "nodes": {"type": "integer", "title": "Nodes", "default": 1, "description": "Number of machines of one training."},
        "memory_gib": {"type": "integer", "title": "Memory", "default": 8, "description": "Main memory per node, in GiB."},
    }
    made["variables"]["properties"].update(asked)
    return made
