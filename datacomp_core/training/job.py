"""Defines the JSON file that the launcher passes to the process of each rank, and what a rank writes when it fails."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from datacomp_core import errors
from datacomp_core.errors import DatacompError
from datacomp_core.training.arguments import RuntimeOptions
from datacomp_core.training.samples import ShardSource
from datacomp_core.training.spec import TrainSpec

JOB = "job.json"
RUN = "run"  # the name of the run, and of its folder
HISTORY = "history.jsonl"
UNREADABLE = "unreadable-rank"
FINAL = "final"
LATEST, PREVIOUS = "epoch_latest.pt", "epoch_previous.pt"
FAILURE = "failure-rank"
TRACEBACK_LINES = 12


class RankJob(BaseModel):
    """Everything a rank needs. `folder` is the run's local folder: job, logs, history and checkpoints to resume from.

    `launch` tells one start of the ranks from the next, so that no node joins one that is over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: TrainSpec
    machine: RuntimeOptions
    sources: tuple[ShardSource, ...]
    folder: str
    launch: str = ""
    name: str = RUN
    loader_workers: int = 0
    cache_bytes: int = 0
    checkpoint_seconds: float = 600.0

    @property
    def checkpoints(self) -> Path:
        return Path(self.folder) / self.name / "checkpoints"


class Failure(BaseModel):
    """Why a rank ended: the kind of error, its sentence, and the end of its traceback."""

    rank: int
    time: float
    kind: str
    message: str
    trace: str

    def error(self) -> DatacompError:
        """The user's own errors come back as what they were; anything else tells the rank and its traceback."""
        known = getattr(errors, self.kind, None)
        if isinstance(known, type) and issubclass(known, DatacompError):
            return known(self.message)
        return DatacompError(f"Rank {self.rank} of the training failed: {self.kind}: {self.message}\n{self.trace}")


def write_failure(folder: Path, rank: int, problem: BaseException) -> None:
    trace = "".join(traceback.format_exception(problem)).strip().splitlines()[-TRACEBACK_LINES:]
    failure = Failure(rank=rank, time=time.time(), kind=type(problem).__name__, message=str(problem), trace="\n".join(trace))
    (folder / f"{FAILURE}{rank}.json").write_text(failure.model_dump_json())


def first_failure(folder: Path) -> Failure | None:
    """The failure that came first: the others mostly tell that they lost a peer."""
    found = [Failure.model_validate_json(path.read_text()) for path in folder.glob(f"{FAILURE}*.json")]
    ours = [failure for failure in found if hasattr(errors, failure.kind)]
    return min(ours or found, key=lambda failure: failure.time, default=None)
