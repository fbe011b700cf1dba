"""Defines the settings of this machine: one typed class, read from the environment (`DATACOMP_...`) and `datacomp.env`.

Nothing here is ever hashed or stored in a record. A test compares the table in the README with it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from datacomp_core.errors import SpecError


class Settings(BaseSettings):
    """See the module."""

    model_config = SettingsConfigDict(env_prefix="DATACOMP_", env_file="datacomp.env", extra="forbid", frozen=True)

    home: Path = Field(
        default=Path(".datacomp"), description="Folder for the default store, the local Prefect database and pages."
    )
    store: str = Field(default="", description="The object store: a folder or s3://bucket/prefix. Empty: `<home>/store`.")
    workers: int = Field(
        default=0,
        ge=0,
        description="Number of worker processes of a sharded step. 0: one per core of this machine, or of the engine's cluster.",
    )
    device: str = Field(
        default="", description="Torch device for embedding and evaluation. Empty: cuda if there is one, else cpu."
    )

    engine: Literal["local", "ray", "dask"] = Field(
        default="local", description="What runs sharded steps: processes of this machine (local), Ray (RAY_ADDRESS) or Dask."
    )
    distributor: Literal["engine", "multiprocessing", "pyspark", "ray"] = Field(
        default="engine",
        description="What assigns a download's shards to workers: the engine above, or a distributor of img2dataset.",
    )
    steps: int = Field(
        default=0, ge=0, description="Maximum number of steps that run at the same time in one process. 0: one per core."
    )
    processes: int = Field(default=1, ge=1, description="Number of torchrun processes of one training: with CUDA, one per GPU.")

    nodes: int = Field(
        default=1, ge=1, description="Number of machines of one training; `datacomp node` sets this and the next three."
    )
    node: int = Field(default=0, ge=0, description="Number of this machine: 0 runs the steps, the others join its trainings.")
    rendezvous: str = Field(default="", description="host:port of node 0 to which the others connect.")
    run_id: str = Field(
        default="datacomp", min_length=1, description="Distinguishes one group of nodes from another in one store."
    )

    caption_server: str = Field(
        default="", description="Address of a caption server with vLLM's API, such as http://host:8000/v1."
    )
    gpu_deployment: str = Field(
        default="",
        description="Deployment that runs GPU steps, such as gpu-step/gpu-step-small. Empty: this process runs them.",
    )
    pages: str = Field(
        default="/report",
        description="Address of report pages and pictures for the Prefect UI: a path on its own server, or the url of another.",
    )
    attempts: int = Field(default=4, ge=1, description="Maximum number of starts of a flow run whose process was lost.")

    @property
    def store_url(self) -> str:
        return self.store or str(self.home.resolve() / "store")

    @property
    def num_workers(self) -> int:
        """Return the workers of a sharded step: the requested number, else one per core of the machine or engine's cluster."""
        from datacomp_core import engines

        if not self.workers and engines.address(self.engine):
            return max(1, engines.cluster_cores(engines.required(self.engine)))
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def num_steps(self) -> int:
        return self.steps or len(os.sched_getaffinity(0))

    @property
    def num_threads(self) -> int:
        """Threads of one process of one training, so that all that work at once have a core each."""
        return max(1, len(os.sched_getaffinity(0)) // (self.num_steps * self.processes))


@cache
def settings() -> Settings:
    """The settings of this process. SpecError names a setting that is wrong."""
    try:
        return Settings()
    except ValidationError as problem:
        first = problem.errors()[0]
        name = "DATACOMP_" + "_".join(str(part) for part in first["loc"]).upper().removeprefix("DATACOMP_")
        raise SpecError(f"Setting {name} is wrong: {first['msg']}.") from problem
