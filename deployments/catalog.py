"""The deployments as rows: flow x scale, with parameters, work pool, tags and concurrency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefect import Flow

from flows.experiment import experiment
from flows.parameters import ExperimentSpec, SweepSpec
from flows.prepare_pool import prepare_pool
from flows.sweep import sweep


@dataclass(frozen=True)
class Row:
    """One deployment: `parameters` are what the form of the UI starts from."""

    flow: Flow[..., Any]
    scale: str
    parameters: dict[str, Any]
    work_pool: str
    tags: tuple[str, ...] = ()
    concurrency: int = 1
    job_variables: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """As the server has it: `flow/deployment`."""
        return f"{self.flow.name}/{self.scale}"

    @property
    def entrypoint(self) -> str:
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


def _form(spec: Any) -> dict[str, Any]:
    return {"spec": spec.model_dump(mode="json")}


ROWS: tuple[Row, ...] = (
    Row(prepare_pool, "tiny", _form(ExperimentSpec().preparation()), "cpu", ("pool",)),
    Row(experiment, "tiny", _form(ExperimentSpec()), "cpu", ("experiment",)),
    Row(sweep, "tiny", _form(SweepSpec()), "cpu", ("experiment",)),
)
