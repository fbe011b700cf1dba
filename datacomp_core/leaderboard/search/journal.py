"""Keeps a search's proposals and results in the store: `searches/<scale>/<name>--<12 hex>/`. A resumed search reads only these.

A batch of proposals is written before any of it runs, a trial when it has ended; files are written atomically. So a killed search
proposes the same trials again, and reuses the steps that they had finished.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datacomp_core.errors import DataError
from datacomp_core.store import Folder

State = Literal["complete", "pruned", "failed"]
BASELINE, FINAL = "baseline.json", "final.json"


class JournalModel(BaseModel):
    """A base that reads what a later version may have added."""

    model_config = ConfigDict(frozen=True)


class Proposal(JournalModel):
    """One proposal: the values of the free parameters, numbers or labels of options."""

    number: int
    params: dict[str, float | int | str]


class TrialBatch(JournalModel):
    """Trials that run at the same time, and how long they took."""

    trials: list[Proposal]
    seconds: float | None = Field(default=None, description="None while it runs or if it was killed.")


class Trial(JournalModel):
    """The result of a proposal. `values` are its value on each rung, on the search's half of the test images."""

    number: int
    params: dict[str, float | int | str]
    filter: Any
    state: State
    values: list[float] = Field(default_factory=list[float])
    value: float | None = Field(
        default=None, description="The mean over the seeds at the search's scale; None if it ended earlier."
    )
    entries: list[str] = Field(default_factory=list[str], description="Addresses of its leaderboard entries, one for each rung.")
    reason: str = ""
    size: int | None = Field(default=None, description="Number of pairs it trained on, including repeats.")


class SeedRuns(JournalModel):
    """A filter with several seeds: the entries, and what each was worth on the search's half."""

    name: str
    entries: list[str]
    values: list[float]


class FinalRuns(JournalModel):
    """The winner and its baseline, with fresh seeds."""

    winner: int
    ours: SeedRuns
    theirs: SeedRuns


class Journal:
    """The files of one search."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def note_request(self, request: dict[str, Any]) -> None:
        """Write the current request; it differs from an earlier one only in its budget."""
        self.folder.write_json("request.json", request)

    def batches(self) -> list[TrialBatch]:
        return [self._read(TrialBatch, f"asked/{name}") for name in sorted((self.folder / "asked").files(".json"))]

    def note_batch(self, number: int, batch: TrialBatch) -> None:
        self._write(f"asked/{number:05d}.json", batch)

    def trials(self) -> list[Trial]:
        """Those that are over, in order of number."""
        return [self._read(Trial, f"trials/{name}") for name in sorted((self.folder / "trials").files(".json"))]

    def note_trial(self, trial: Trial) -> None:
        self._write(f"trials/{trial.number:05d}.json", trial)

    def baseline(self) -> SeedRuns | None:
        return self._read(SeedRuns, BASELINE) if self.folder.exists(BASELINE) else None

    def note_baseline(self, runs: SeedRuns) -> None:
        self._write(BASELINE, runs)

    def final(self, winner: int) -> FinalRuns | None:
        """The final runs of this winner; another one's, of a smaller budget, do not count."""
        found = self._read(FinalRuns, FINAL) if self.folder.exists(FINAL) else None
        return found if found is not None and found.winner == winner else None

    def note_final(self, final: FinalRuns) -> None:
        self._write(FINAL, final)

    def _write(self, name: str, value: BaseModel) -> None:
        self.folder.write(name, value.model_dump_json(indent=1).encode())

    def _read(self, kind: type[Any], name: str) -> Any:
        try:
            return kind.model_validate_json(self.folder.read(name))
        except ValidationError as problem:
            raise DataError(
                f"{self.folder.at(name)} is damaged ({problem.error_count()} errors): remove it to repeat its work."
            ) from problem
