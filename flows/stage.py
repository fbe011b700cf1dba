"""An experiment up to one of its stages: what the commands `pool`, `embed`, `filter`, ... of the command line run."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows.calls import Submitted, options
from flows.chain import STAGES
from flows.parameters import ExperimentSpec

Stage = Literal["pool", "embed", "filter", "reshard", "train", "evaluate"]


@flow(name="stage", **options("{scale}-{recipe}-{until}"))
def stage(spec: ExperimentSpec, until: Stage = "pool") -> Any:
    """The chain of an experiment as far as `until`; later commands go on from there."""
    calls = Submitted()
    [made] = calls.results([STAGES[until](calls.call, spec)])
    return made
