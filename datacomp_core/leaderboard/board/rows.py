"""The rows and columns of a board as plain data, ready for a terminal, a page or JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.input_classes import InputClass, RecipeInputs
from datacomp_core.leaderboard.board.stats import Verdict
from datacomp_core.leaderboard.entries.placement import TRACKS, Track
from datacomp_core.leaderboard.entries.roles import Role


class BoardScore(BaseModel):
    """Mean over seeds; `std` is the sample standard deviation, None for one seed."""

    model_config = ConfigDict(frozen=True)
    mean: float
    std: float | None = None
    values: list[float] = Field(default_factory=list[float])


class BoardColumn(BaseModel):
    """A score column: the average, a group of tasks, one task; separately, the average of own tasks, and each own task."""

    model_config = ConfigDict(frozen=True)
    key: str
    title: str
    level: Literal["average", "group", "task", "own", "own task"]
    metric: str = ""
    scored: bool = Field(default=True, description="Whether it counts in the average and in verdicts.")


class BoardRow(BaseModel):
    """One method. `key` is the same for all runs that differ in their seeds alone."""

    key: str
    kind: Literal["run", "reference"]
    method: str
    names: list[str] = Field(default_factory=list[str], description="All names under which this one filter was entered.")
    recipe: str
    track: Track
    suite: str
    setting: str = Field(default="", description="The same for rows that differ only in filter and seeds.")
    rank: int | None = None
    tied: bool = Field(default=False, description="Whether it shares its rank with another row.")
    role: Role = Field(default="method", description="baseline: the unfiltered pool; control: chosen at random; method.")
    num_seeds: int
    seeds: list[dict[str, int]]
    size: float | None = Field(description="None for a published row if the source does not state it.")
    unique: float | None
    inputs: InputClass | None = Field(default=None, description="What the filter was made from; None if this was not stated.")
    inputs_claimed: bool = Field(default=False, description="Whether the class relies on a statement of the filter's author.")
    inputs_why: list[str] = Field(default_factory=list[str], description="The reasons for the row's class.")
    our_recipe: bool = Field(default=True, description="Whether it was trained and evaluated with the benchmark's fixed recipe.")
    pool: float | None = None
    arrived: float | None = Field(default=None, description="Share of the chosen pairs that were in the training shards.")
    repeats: float | None = Field(default=None, description="How often a pair of the training set was seen, on average.")
    scores: dict[str, BoardScore] = Field(description="By column key; a missing score has no key.")
    pools: list[str] = Field(
        default_factory=list[str],
        description="Hashes of the realised pools that its seeds used; of a row sent to a board, as stated by its sender.",
    )
    baseline: Verdict | None = Field(default=None, description="Against the unfiltered pool.")
    control: Verdict | None = Field(default=None, description="Against the random subset of the nearest size.")
    control_size: float | None = None
    seconds: float | None = None
    gpu_hours: float | None = None
    num_bytes: float | None = None
    claimed: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="For a row that was sent to a board: amounts that its bundle cannot prove, as stated by its sender.",
    )
    by: str = Field(default="", description="For a row that was sent to a board: its sender.")
    evaluated_again: bool = Field(default=False, description="Whether the board itself evaluated every checkpoint of the row.")
    date: str = ""
    since: str = Field(default="", description="The date of its first entry; `date` is the date of the last entry.")
    breaches: list[str] = Field(default_factory=list[str])
    unverified: list[str] = Field(default_factory=list[str], description="What must be known before the row can be ranked.")
    entries: list[str] = Field(default_factory=list[str], description="Addresses.")
    superseded: int = Field(default=0, description="Older entries of the same seeds that this row leaves out.")
    note: str = ""

    @property
    def place(self) -> str:
        """The rank as it is shown: `1`, `=3` where it is shared, empty without one."""
        return "" if self.rank is None else f"={self.rank}" if self.tied else str(self.rank)

    @property
    def coverage(self) -> tuple[float | None, str]:
        """The share that arrived, and ` (claimed)` where only the sender of the row says so."""
        said = self.claimed.get("arrived")
        return (self.arrived, "") if said is None else (said, " (claimed)")

    @property
    def input_class(self) -> str:
        """The class of inputs in words, empty where it is not stated."""
        return "" if self.inputs is None else RecipeInputs(of=self.inputs, claimed=self.inputs_claimed).title

    @property
    def average(self) -> BoardScore | None:
        return self.scores.get("average")


class Board(BaseModel):
    """Everything a table of one scale shows, as plain data; `rows` in order, track after track, ranked within each."""

    scale: str
    suite: str
    columns: list[BoardColumn]
    rows: list[BoardRow]
    noise: float | None = Field(
        default=None, description="Standard deviation of the average over seeds, pooled over all methods."
    )
    noise_senders: int = Field(default=0, description="Number of senders; with several, `noise` is the median of their values.")

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    def runs(self) -> list[BoardRow]:
        """Our own rows of the board's suite, best first."""
        return [row for row in self.rows if row.kind == "run" and row.suite == self.suite]

    def tracks(self) -> list[str]:
        """The tracks that have rows of our own, `filtering` first."""
        there = {row.track for row in self.rows if row.kind == "run"}
        return [track for track in TRACKS if track in there]

    def of_track(self, track: str) -> Board:
        """The rows of one track."""
        return self.model_copy(update={"rows": [row for row in self.rows if row.track == track]})

    def leading(self) -> Board:
        """The rows of the first track that has any: what headlines are about."""
        return self.of_track(next(iter(self.tracks()), "filtering"))

    def row(self, key: str) -> BoardRow | None:
        return next((row for row in self.rows if row.key == key), None)
