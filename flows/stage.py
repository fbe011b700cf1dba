"""Flow that runs an experiment up to one of its stages, for the commands `pool`, `embed`, `filter` and others."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows.chain import STAGES
from flows.parameters import ExperimentSpec
from flows.task_calls import SubmittedCalls, options

Stage = Literal["pool", "embed", "filter", "reshard", "train", "evaluate"]


@flow(name="stage", **options("{scale}-{recipe}-{until}"))
def stage(spec: ExperimentSpec, until: Stage = "pool") -> Any:
    """Run the chain of an experiment up to `until`; later commands continue from there."""
    calls = SubmittedCalls()
    [made] = calls.results([STAGES[until](calls.call, spec)])
    return made
