"""Several nodes, one training: the first runs the step and says in the store where its run lies; the others join it.

Nodes share the store and the run's folder (a shared disk: the store's, or `DATACOMP_HOME` where the store is a bucket).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.store import Store
from datacomp_core.training.job import JOB, Job
from datacomp_core.training.launch import Layout, run_node

log = logging.getLogger(__name__)

MEETINGS = "_trainings"
POLL_SECONDS = 1.0
WAIT_SECONDS = 1800.0


@contextmanager
def announced(store: Store, layout: Layout, folder: Path) -> Generator[None]:
    """Tell the other nodes of `layout.run_id` where the run lies, while the block lasts. Nothing is told of a single node."""
    if layout.nodes == 1:
        yield
        return
    name = f"{MEETINGS}/{layout.run_id}.json"
    (folder / JOB).unlink(missing_ok=True)
    store.root.write_json(name, {"folder": str(folder), "nodes": layout.nodes, "began": time.time()})
    try:
        yield
    finally:
        store.root.remove(name)


def join(store: Store, layout: Layout, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Take part in a training as node `layout.node`, until it ends. DatacompError if it fails, or nobody begins one in time."""
    if not layout.node:
        raise SpecError("Node 0 runs the training itself; the others join it.")
    folder = _found(store, layout, wait_seconds)
    job = Job.model_validate_json((folder / JOB).read_bytes())
    if job.machine.world_size != layout.world_size:
        raise SpecError(
            f"The training {layout.run_id!r} has {job.machine.world_size} processes in all, and this node was told of "
            f"{layout.world_size}: give every node the same numbers of nodes and processes."
        )
    run_node(job, layout, _nothing)


def _found(store: Store, layout: Layout, wait_seconds: float) -> Path:
    name = f"{MEETINGS}/{layout.run_id}.json"
    until = time.monotonic() + wait_seconds
    log.info("waiting for the training %s", layout.run_id)
    while time.monotonic() < until:
        if store.root.exists(name):
            folder = Path(store.root.read_json(name)["folder"])
            if (folder / JOB).exists():
                return folder
        time.sleep(POLL_SECONDS)
    raise DatacompError(
        f"No training {layout.run_id!r} that this node can see began within {wait_seconds:.0f} s: start node 0 with the same "
        f"run id and store ({store.root}), and have the nodes share the disk of its run folder."
    )


def _nothing() -> None:
    return
