"""Lists the deployments as rows: flow x scale, with parameters, work pool, machines, tags, schedule and concurrency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow

from datacomp_core.errors import SpecError
from datacomp_core.scales import SCALES
from datacomp_core.scales import scale as known_scale
from deployments.forms import EMBEDDED, FROM_PYTHON, score_of
from deployments.lost_runs import HEARTBEAT_SECONDS
from flows.captioning import CaptioningSpec, make_captions
from flows.curate import curate
from flows.experiment import experiment
from flows.form_defaults import SOURCES
from flows.gpu_step import gpu_step
from flows.parameters import ExperimentSpec, SweepSpec
from flows.prepare_pool import prepare_pool
from flows.reevaluate import ReevaluationSpec, reevaluate
from flows.search import search
from flows.search_spec import SearchSpec
from flows.sweep import sweep
from flows.train_and_evaluate import TrainingSpec, train, train_and_evaluate

OF_EVERY_RUN = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),  # a run without heartbeats is lost: see lost_runs.py
    "PREFECT_LOGGING_EXTRA_LOGGERS": "datacomp_core",  # the run's log includes the library's lines
    "PREFECT_CLIENT_MAX_RETRIES": "7",  # 2, 4 ... 128 s: a run waits four minutes for a server that is away; by default one
}
"""Set by the deployment and not by its worker: Docker and Kubernetes workers do not pass on their environment."""


ONE_GPU = {"gpus": 1, "nodes": 1, "memory_gib": 64}


@dataclass(frozen=True)
class DeploymentRow:
    """One deployment. `parameters` are the initial values of the UI form; `machine` is what a run requests of its node.
    `variant` distinguishes it from another row with the same flow and scale.
    """

    flow: Flow[..., Any]
    scale: str
    parameters: dict[str, Any]
    work_pool: str
    tags: tuple[str, ...] = ()
    concurrency: int | None = None
    cron: str | None = None
    machine: dict[str, int] = field(default_factory=dict[str, int])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    variant: str = ""

    @property
    def deployment(self) -> str:
        """The name in the UI's list: `experiment-tiny`."""
        return "-".join(filter(None, (self.flow.name, self.scale, self.variant)))

    @property
    def name(self) -> str:
        """The name on the server: `flow/deployment`."""
        return f"{self.flow.name}/{self.deployment}"

    @property
    def entrypoint(self) -> str:
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"

    @property
    def job_variables(self) -> dict[str, Any]:
        return {**self.machine, "env": {**OF_EVERY_RUN, **self.environment}}


@dataclass(frozen=True)
class ScaleMachines:
    """One scale's machines: GiB of memory per CPU node, GPUs per node, nodes per training, and how often its board is updated.

    GPUs and nodes are starting values (5 hours at `medium`, 34 at `large`, 81 at `xlarge` by the paper's A100-hours): an
    operator edits the job variables of `gpu-step-SCALE`; any number that divides the batch gives the same training.
    """

    memory_gib: int
    gpus: int
    nodes: int
    cron: str

    @property
    def of_training(self) -> dict[str, int]:
        return {"gpus": self.gpus, "nodes": self.nodes, "memory_gib": 64 * self.gpus}


MACHINES: dict[str, ScaleMachines] = {
    "tiny": ScaleMachines(8, 1, 1, "0 4 * * *"),
    "debug": ScaleMachines(16, 1, 1, "0 4 * * 1"),
    "small": ScaleMachines(32, 1, 1, "10 4 * * 1"),
    "medium": ScaleMachines(64, 8, 1, "20 4 * * 1"),
    "large": ScaleMachines(128, 8, 4, "30 4 * * 1"),
    "xlarge": ScaleMachines(256, 8, 64, "40 4 * * 1"),
}


def machines_of(scale: str) -> ScaleMachines:
    """Return the machines of a scale. A scale without a row gets the machines of the largest scale here that sees no more
    samples."""
    if scale in MACHINES:
        return MACHINES[scale]
    seen = SCALES[scale].train_num_samples
    smaller = [name for name in MACHINES if SCALES[name].train_num_samples <= seen]
    return MACHINES[max(smaller, key=lambda name: SCALES[name].train_num_samples, default="debug")]


def _form(spec: Any) -> dict[str, Any]:
    return {"spec": spec.model_dump(mode="json", exclude=set(FROM_PYTHON))}


def _rows_of(scale: str) -> Iterator[DeploymentRow]:
    """Every flow for one scale. Only `tiny` trains where its flow runs; the others hand their GPU steps to GPU workers."""
    asked = machines_of(scale)
    elsewhere = {} if scale == EMBEDDED else {"DATACOMP_GPU_DEPLOYMENT": f"{gpu_step.name}/{gpu_step.name}-{scale}"}
    source = SOURCES[scale]
    chosen = ExperimentSpec.model_validate({"scale": scale, "recipe": source.recipe, "pool": source.pool})
    sweeping = SweepSpec.model_validate({"scale": scale, "recipes": source.recipes, "pool": source.pool})
    space = f"{{kind: top_fraction, score: {score_of(scale)}, fraction: {{low: 0.1, high: 0.9}}}}"
    searching = SearchSpec.model_validate({"scale": scale, "pool": source.pool, "space": space})
    training = TrainingSpec.model_validate({"scale": scale, "shards": ["shards/ADDRESS"]})
    again = ReevaluationSpec.model_validate({"scale": scale})
    flows: tuple[tuple[Flow[..., Any], Any, str, int | None], ...] = (
        (prepare_pool, chosen.preparation(), "pool", 1),
        (make_captions, CaptioningSpec.model_validate({"scale": scale, "pool": source.pool}), "captions", None),
        (curate, chosen, "pool", None),
        (train, training, "training", None),
        (train_and_evaluate, training, "training", None),
        (experiment, chosen, "experiment", None),
        (sweep, sweeping, "experiment", None),
        (search, searching, "experiment", None),
    )
    memory = {"memory_gib": asked.memory_gib}
    for flow, spec, tag, concurrency in flows:
        yield DeploymentRow(flow, scale, _form(spec), "cpu", (scale, tag), concurrency, None, memory, elsewhere)
    here = {"DATACOMP_GPU_DEPLOYMENT": ""}
    # It finds built checkpoints by itself and measures on the original device: scores on a CPU differ.
    pool, machine = ("cpu", memory) if scale == EMBEDDED else ("gpu", ONE_GPU)
    yield DeploymentRow(reevaluate, scale, _form(again), pool, (scale, "evaluation"), 1, asked.cron, machine, here)
    yield DeploymentRow(gpu_step, scale, {}, "gpu", (scale, "gpu"), machine=asked.of_training, environment=here)


MORE: tuple[DeploymentRow, ...] = ()
"""Custom deployments, one row each."""


def checked(rows: tuple[DeploymentRow, ...]) -> tuple[DeploymentRow, ...]:
    """SpecError for a row with an unknown scale or a duplicate name."""
    for row in rows:
        known_scale(row.scale)
    names = [row.name for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"Two deployments are called {twice[0]}: give one of them a `variant`.")
    return rows


ROWS: tuple[DeploymentRow, ...] = checked((*(row for scale in SOURCES for row in _rows_of(scale)), *MORE))
