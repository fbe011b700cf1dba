"""Starts the ranks and ensures that none outlives its purpose. The ranks run in a separate session, below torchrun; they end
with it, and it ends with this process. A rank that fails ends the others, and its error is raised here.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from datacomp_core.errors import DatacompError, LostProcessError
from datacomp_core.import_errors import NO_MODULE, library_error
from datacomp_core.subprocess_output import SubprocessOutput
from datacomp_core.training.elastic import PARENT
from datacomp_core.training.job import FAILURE, JOB, RankJob, first_failure
from datacomp_core.training.memory import bytes_needed, device_bytes

log = logging.getLogger(__name__)

WORKER = "datacomp_core.training.worker"
ELASTIC = "datacomp_core.training.elastic"
OUTPUT = "ranks.log"
NODE_FAILED = "failed-node"
POLL_SECONDS = 0.25
GRACE_SECONDS = 10
TAIL_BYTES = 3000
KEPT_BYTES = 4 << 30
KILLED = re.compile(rf"exitcode\s*: -{int(signal.SIGKILL)}\b")  # as torchrun describes a rank


class NoMemoryError(DatacompError):
    """A GPU's memory does not hold what was asked of it."""


class TorchrunLayout(BaseModel):
    """Where the ranks run: one machine by default; many share a rendezvous (`host:port`) and a file system."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(default=1, ge=1, description="Processes on this node: with CUDA, one per GPU.")
    nodes: int = Field(default=1, ge=1)
    node: int = Field(default=0, ge=0, description="Number of this node: node 0 runs the step, the others join it.")
    rendezvous: str = Field(default="", description="host:port of torchrun's rendezvous, on node 0. Empty: only this machine.")
    run_id: str = Field(default="datacomp", description="Distinguishes the rendezvous of several runs.")
    restarts: int = Field(default=0, ge=0, description="How often a lost rank is replaced before the run fails.")
    threads: int = Field(default=0, ge=0, description="CPU threads per process. 0: the cores divided among the processes.")

    @model_validator(mode="after")
    def _meets(self) -> TorchrunLayout:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError("Several nodes need a rendezvous: give `rendezvous` as host:port of the first one.")
        if self.node >= self.nodes:
            raise ValueError(f"There is no node {self.node} among {self.nodes} nodes: number them from 0.")
        return self

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes

    @property
    def threads_each(self) -> int:
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.processes)


def launch(job: RankJob, layout: TorchrunLayout, watch: Callable[[], None]) -> None:
    """Run all ranks to their end, calling `watch` now and then. Raises the error of the rank that failed first."""
    folder = Path(job.folder)
    for stale in [*folder.glob(f"{FAILURE}*.json"), *folder.glob(f"{NODE_FAILED}*")]:
        stale.unlink()
    job = job.model_copy(update={"launch": uuid.uuid4().hex})
    fresh = folder / f".{JOB}"
    fresh.write_text(job.model_dump_json())
    fresh.replace(folder / JOB)  # at once: other nodes read it
    run_node(job, layout, watch)
    watch()


def run_node(job: RankJob, layout: TorchrunLayout, watch: Callable[[], None]) -> None:
    """Run this node's ranks of the job in its folder. A node that fails ends the others within a minute."""
    folder = Path(job.folder)
    log_file = folder / (OUTPUT if not layout.node else f"ranks-node{layout.node}.log")
    with log_file.open("ab") as output:
        started = output.tell()
        echo = SubprocessOutput(log_file, start=started, hushed="| INFO |")  # `watch` tells them shorter, out.log keeps them
        process = subprocess.Popen(
            command(job, layout),
            env=_environment(job, layout),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not _others_failed(folder, layout):
                time.sleep(POLL_SECONDS)
                watch()
                echo()
        finally:
            _end(process)
            echo.close()
    if process.returncode != 0:
        (folder / f"{NODE_FAILED}{layout.node}").touch()
        raise _reason(job, process.returncode, log_file, started)


def _others_failed(folder: Path, layout: TorchrunLayout) -> bool:
    """Whether another node has given up: its ranks are gone, and ours may wait for them forever."""
    if layout.nodes == 1:
        return False
    found = [path for path in folder.glob(f"{NODE_FAILED}*") if path.name != f"{NODE_FAILED}{layout.node}"]
    return any(time.time() - path.stat().st_mtime > GRACE_SECONDS for path in found)


def command(job: RankJob, layout: TorchrunLayout) -> list[str]:
    """The torchrun of this node, also for one process: the same way at every size, for 3 s of imports."""
    where = ["--standalone"]
    if layout.rendezvous:
        where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", layout.rendezvous, "--rdzv-id", f"{layout.run_id}-{job.launch}"]
        where += ["--rdzv-conf", f"is_host={int(not layout.node)}"]  # by number, for a host may not know itself by that name
    return [
        *(sys.executable, "-m", ELASTIC, *where),
        *("--nnodes", str(layout.nodes), "--nproc-per-node", str(layout.processes)),
        *("--max-restarts", str(layout.restarts), "--log-dir", f"{job.folder}/torchrun"),  # else it leaves a folder in /tmp
        *("--module", "--", WORKER, job.folder),
    ]


def _environment(job: RankJob, layout: TorchrunLayout) -> dict[str, str]:
    threads = str(layout.threads_each)
    given = {**os.environ, PARENT: str(os.getpid()), "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    given["PYTHONSAFEPATH"] = "1"  # a file in the working folder is not the module of its name
    given.setdefault("WANDB_DIR", job.folder)
    # Keep freed memory: glibc gives large blocks back to the kernel, and a step on a CPU spends a third of its time on
    # faulting them in again.
    given |= {"MALLOC_TRIM_THRESHOLD_": f"{KEPT_BYTES}", "MALLOC_MMAP_THRESHOLD_": f"{KEPT_BYTES}"}
    # A rank learns its place only from torchrun: what this process got from a scheduler is about this process.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        given.pop(name, None)
    if layout.world_size == 1:
        given["WORLD_SIZE"] = "1"
    # torchrun's own store keeps the addresses of lost ranks, and new ones would try them (pytorch issues 135712, 167288).
    if layout.restarts:
        given["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return given


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, so that torchrun ends its ranks; then SIGKILL, on which the kernel ends them."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _reason(job: RankJob, status: int, log_file: Path, started: int) -> DatacompError:
    failure = first_failure(Path(job.folder))
    if failure is not None and failure.kind == "OutOfMemoryError":
        return _out_of_memory(job)
    with log_file.open("rb") as output:
        size = output.seek(0, os.SEEK_END)
        output.seek(max(started, size - TAIL_BYTES))
        tail = output.read().decode("utf-8", "replace")
    killed = KILLED.search(tail) is not None or status == -signal.SIGKILL
    if failure is not None and not (killed and _lost_a_peer(failure.trace)):
        return failure.error()
    if killed:
        return LostProcessError(
            "A rank of the training was killed (SIGKILL), probably because memory ran out: use more accumulation or fewer "
            "loader workers and run again; it resumes from its last checkpoint."
        )
    if found := NO_MODULE.search(tail):  # of torchrun or of a rank that could not begin
        missing = library_error(ModuleNotFoundError(found.group(), name=found.group(1)))
        if isinstance(missing, DatacompError):
            return missing
    return DatacompError(f"The training ended with status {status}. The end of {log_file}:\n{tail}")


def _out_of_memory(job: RankJob) -> NoMemoryError:
    machine, batch = job.machine, job.spec.recipe.batch_size // job.machine.world_size
    switch, room = "on" if machine.checkpoints_gradients else "off", device_bytes() or math.inf
    counts = (n for n in range(machine.accumulation * 2, batch + 1) if batch % n == 0)
    more = next((n for n in counts if bytes_needed(job.spec, machine, switch, n) <= room), batch)
    also = "" if machine.checkpoints_gradients else ", or gradient checkpointing (checkpointing='on')"
    return NoMemoryError(
        f"The GPU's memory is too small for {batch // machine.accumulation} samples per process: use accumulation "
        f"{more}{also}. The training resumes from its last checkpoint."
    )


def _lost_a_peer(trace: str) -> bool:
    return any(word in trace for word in ("Connection closed by peer", "Connection reset", "gloo", "NCCL"))
