"""One line of the leaderboard as plain JSON: scores, what was trained on, seeds, cost, rules, and the chain it came from.

An entry is self-contained: a board can be rebuilt from entries alone. It states only what its records and data state, and does
not contain a time of its own, so making it twice gives the same bytes. `hits.npz` is next to it, for tests over images.
"""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DataError
from datacomp_core.input_classes import RecipeInputs
from datacomp_core.leaderboard.entries.placement import Track
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
from datacomp_core.leaderboard.entries.rules import RuleCheck
from datacomp_core.store import Store

ENTRY = "entry.json"


class EntryTask(BaseModel):
    """One evaluation task's main metric; `value` is None where it could not be computed or the task has none."""

    model_config = ConfigDict(frozen=True)
    key: str
    name: str
    metric: str
    scored: bool = Field(default=True, description="Whether it counts in the average.")
    value: float | None


class Size(BaseModel):
    """How many pairs were chosen, with and without their repeats, out of a pool of how many."""

    model_config = ConfigDict(frozen=True)
    total: int
    unique: int
    pool: int | None = None
    trained_on: int = Field(description="Pairs in the training shards: chosen and downloaded.")


class Realised(BaseModel):
    """The download the subset was cut from: pools differ by what still answered on the day."""

    model_config = ConfigDict(frozen=True)
    address: str
    fingerprint: str
    content: str = Field(description="Hash of the downloaded uids.")
    num_samples: int


class Cost(BaseModel):
    """The cost of the whole chain as if nothing had been shared: seconds by kind of step, and bytes written."""

    model_config = ConfigDict(frozen=True)
    seconds: float
    seconds_by_kind: dict[str, float]
    num_bytes: int
    gpu_hours: float = Field(description="Hours of the steps that ran on CUDA, times their number of processes.")


class CaptionUse(BaseModel):
    """Which captions a training saw that are not the pool's: by which policies, of which sources, and which models wrote them."""

    model_config = ConfigDict(frozen=True)
    policies: list[str]
    shares: dict[str, float] = Field(
        description="Shares of the training samples; expected shares for a random draw. raw: the pool's own captions."
    )
    models: list[str]
    sets: list[str] = Field(description="Addresses of the caption sets.")

    def sentence(self) -> str:
        shares = ", ".join(f"{source} {share:.1%}" for source, share in self.shares.items())
        models = f"; written by {', '.join(self.models)}" if self.models else ""
        return f"Captions by {' and '.join(self.policies)}: {shares}{models}."


class SubmissionInfo(BaseModel):
    """The inbox's record of a submitted row. Its cost and amounts are the sender's claims."""

    model_config = ConfigDict(frozen=True)
    id: str = Field(description="The submission it came with.")
    by: str = Field(description="The name of the sender's token.")
    attempt: int = Field(default=1, description="Counts the sender's submissions of the same experiment with the same seeds.")
    signed: bool = False
    evaluated_again: bool = Field(default=False, description="Whether the board itself evaluated the checkpoint.")


class Entry(BaseModel):
    """See the module. Unknown fields are ignored, so that a board reads the entries of a later version."""

    model_config = ConfigDict(frozen=True)
    format: int = 2
    scale: str
    track: Track
    method: str
    recipe: str
    suite: str
    suite_version: int
    model: str
    samples_seen: int
    size: Size
    seeds: dict[str, int] = Field(description="`training`, and `pool` if the pool was made from a seed.")
    average: float | None
    groups: dict[str, float | None]
    tasks: list[EntryTask]
    date: str = Field(description="When the evaluation began, ISO 8601, UTC.")
    cost: Cost
    realised_pool: Realised | None
    same_but_for_seeds: str = Field(
        description="Hash of all specs of the chain without their seeds; entries with the same hash form one row of the board."
    )
    checks: list[RuleCheck]
    inputs: dict[str, str] = Field(description="Addresses of report, checkpoint, subset and shards.")
    chain: list[ProvenanceLink]
    input_class: RecipeInputs | None = Field(default=None, description="What the filter was made from; None for older entries.")
    captions: CaptionUse | None = Field(default=None, description="None: the pool's own captions.")
    submitted: SubmissionInfo | None = Field(default=None, description="Written only by a board's inbox.")

    def to_bytes(self) -> bytes:
        """Return `entry.json`. It has captions only if they are not the pool's, and an inbox's fields if it came through one."""
        plain = self.model_dump(mode="json", exclude={name for name in ("submitted", "captions") if getattr(self, name) is None})
        return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False).encode()


def read(store: Store, artifact: BoardEntry) -> Entry:
    """An entry's content. DataError if it is missing or not one."""
    folder = store.folder(artifact)
    try:
        return Entry.model_validate_json(folder.read(ENTRY))
    except ValidationError as problem:
        raise DataError(
            f"{folder.at(ENTRY)} is not a leaderboard entry ({problem.error_count()} errors): enter the report again."
        ) from problem
