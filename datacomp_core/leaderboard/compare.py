"""Two results side by side: what changed on each task, how far their subsets overlap, and what only one of them chose."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core import parts
from datacomp_core.artifacts import BoardEntry, Pool, Subset
from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.entry import Entry, read
from datacomp_core.leaderboard.overlap import Overlap, overlap
from datacomp_core.leaderboard.provenance import find
from datacomp_core.leaderboard.stats import Verdict, compare
from datacomp_core.store import Folder, Store

MAX_PARTS = 64
MAX_SAMPLES = 24


class TaskDelta(BaseModel):
    """One task both have: `difference` is the second's score less the first's."""

    model_config = ConfigDict(frozen=True)
    key: str
    name: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        return self.second - self.first


class Pair(BaseModel):
    """One row of the pool."""

    model_config = ConfigDict(frozen=True)
    uid: str
    text: str | None
    url: str


class Comparison(BaseModel):
    """The second against the first. Single runs have one seed each, so the verdict knows the noise of tasks only."""

    model_config = ConfigDict(frozen=True)
    first: str = Field(description="Method and seeds of the first entry.")
    second: str
    addresses: tuple[str, str]
    tasks: list[TaskDelta] = Field(description="Largest gain first.")
    average: tuple[float | None, float | None]
    verdict: Verdict | None
    overlap: Overlap
    only_first: list[Pair] = Field(description="Some pairs the first chose and the second did not.")
    only_second: list[Pair]


def compare_entries(store: Store, first: str, second: str) -> Comparison:
    """Compare two entries, each by address or fingerprint. SpecError if one is none, or if their suites differ."""
    (one_at, one), (two_at, two) = _entry(store, first), _entry(store, second)
    if (one.suite, one.suite_version) != (two.suite, two.suite_version):
        raise SpecError(
            f"{first} was scored by {one.suite} v{one.suite_version} and {second} by {two.suite} v{two.suite_version}: "
            "evaluate one of them again."
        )
    values = {task.key: task.value for task in one.tasks}
    deltas = [
        TaskDelta(key=task.key, name=task.name, first=before, second=task.value)
        for task in two.tasks
        if (before := values.get(task.key)) is not None and task.value is not None
    ]
    common = overlap(_folder(store, one.inputs["subset"]), _folder(store, two.inputs["subset"]))
    return Comparison(
        first=_label(one),
        second=_label(two),
        addresses=(one_at, two_at),
        tasks=sorted(deltas, key=lambda delta: -delta.difference),
        average=(one.average, two.average),
        verdict=compare({d.key: [d.second] for d in deltas}, {d.key: [d.first] for d in deltas}, one.method),
        overlap=common,
        only_first=pairs(store, one, common.only_first),
        only_second=pairs(store, two, common.only_second),
    )


def pairs(store: Store, entry: Entry, uids: list[str]) -> list[Pair]:
    """Captions and urls of some uids of an entry's pool, from at most MAX_PARTS of its parts; what is not there is left out."""
    wanted, found = uids[:MAX_SAMPLES], list[Pair]()
    for address in [link.address for link in entry.chain if link.kind == Pool.kind]:
        record = store.record(address)
        if record is None:
            continue
        metadata = store.folder(store.artifact(Pool, record)) / parts.METADATA
        for part in parts.part_names(metadata)[:MAX_PARTS]:
            rows = parts.scan(metadata, part).select("uid", "text", "url").filter(pl.col("uid").is_in(wanted)).collect()
            found += [Pair(**row) for row in rows.iter_rows(named=True)]
            if len(found) >= len(wanted):
                return found
    return found


def _entry(store: Store, text: str) -> tuple[str, Entry]:
    record = find(store, text)
    if record.kind != BoardEntry.kind:
        raise SpecError(f"{text!r} is of the kind {record.kind}: only leaderboard entries can be compared.")
    return record.address, read(store, store.artifact(BoardEntry, record))


def _folder(store: Store, address: str) -> Folder:
    return store.folder(store.artifact(Subset, find(store, address)))


def _label(entry: Entry) -> str:
    return f"{entry.method} ({', '.join(f'{name} seed {seed}' for name, seed in entry.seeds.items())})"
