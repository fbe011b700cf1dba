"""Build something again from its records, in another store, and say where it comes out differently.

With `depth` 0 only the step itself runs again, on the very inputs it had (read in place); with 1 also the steps that made those,
and so on. Files are compared by hash; where a JSON file differs, the fields that differ are named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.entries.provenance import find
from datacomp_core.leaderboard.entries.recorded_call import artifact_of, call_of
from datacomp_core.store import Folder, Step, Store
from datacomp_core.store.record import Record

Run = Callable[..., Artifact]
"""`run(step, *identity)` builds in the other store."""
MAX_FIELDS = 12
CLOCKS = frozenset({"seconds", "started", "date", "host", "seconds_by_kind", "time"})


class FileDifference(BaseModel):
    """One file that came out differently; `fields` are the paths in a JSON file, clocks aside."""

    model_config = ConfigDict(frozen=True)
    file: str
    what: str
    fields: list[str] = Field(default_factory=list[str])


class ReplayedStep(BaseModel):
    """One step that was run again."""

    model_config = ConfigDict(frozen=True)
    address: str
    again: str = Field(description="Its address in the other store; a different address if an input differs.")
    same_files: int
    differences: list[FileDifference]
    seconds: tuple[float, float] = Field(description="The value then, and the value now.")

    @property
    def is_same(self) -> bool:
        """Nothing differs but clocks."""
        return all(difference.what == "clocks" for difference in self.differences)


def replay(store: Store, what: str, run: Run, other: Store, *, depth: int = 0) -> list[ReplayedStep]:
    """Run the step behind an address or fingerprint again, and its upstream to `depth`; upstream first.

    SpecError if it was adopted, or if no step of this code has its fingerprint.
    """
    if other.root == store.root:
        raise SpecError(
            "A replay needs a separate store, so that it cannot change the data that it compares: give another folder."
        )
    made: dict[str, Artifact] = {}
    told: list[ReplayedStep] = []

    def again(address: str, left: int) -> Artifact:
        if address not in made:
            record = store.record(address)
            if record is None:
                raise DataError(f"The record {address} is gone, so artifacts made from it cannot be built again.")
            if left < 0:
                made[address] = _in_place(store, record)
            else:
                for used in [used for given in record.inputs.values() for used in given]:
                    again(used["address"], left - 1)
                step, identity = _call(store, record, made)
                made[address] = run(step, *identity)
                told.append(_compared(store, record, other, made[address]))
        return made[address]

    again(find(store, what).address, depth)
    return told


def _in_place(store: Store, record: Record) -> Artifact:
    """Return the artifact of a record with an absolute data location, so that another store can use it."""
    if lost := store.missing(record):
        raise DataError(f"The data of {record.address} is gone ({lost}): replay it too, with a greater --depth.")
    artifact = artifact_of(record)
    return artifact.model_copy(update={"data": store.folder(artifact).url})


def _call(store: Store, record: Record, made: dict[str, Artifact]) -> tuple[Step[Any], tuple[Any, ...]]:
    if record.adopted_from:
        raise SpecError(f"{record.address} was adopted from {record.adopted_from}: it was not built here and cannot be replayed.")

    def recorded(address: str) -> Artifact | None:
        upstream = store.record(address)
        return None if upstream is None else artifact_of(upstream)

    call = call_of(record, recorded)
    if call is None:
        raise SpecError(
            f"No step of this code has the fingerprint of {record.address}: it was made by version {record.version} of it."
        )
    return call.step, tuple(_instead(value, made) for value in call.identity)


def _instead(value: Any, made: dict[str, Artifact]) -> Any:
    """The inputs as they came out now."""
    if isinstance(value, tuple):
        return tuple(_instead(item, made) for item in value)
    return made.get(value.address, value) if isinstance(value, Artifact) else value


def _compared(store: Store, record: Record, other: Store, artifact: Artifact) -> ReplayedStep:
    now = other.record(artifact.address)
    assert now is not None, "a step that ran has a record"
    old, new = ({row["path"]: row["sha256"] for row in s.manifest(r).to_dicts()} for s, r in ((store, record), (other, now)))
    folders = store.folder(artifact_of(record)), other.folder(artifact)
    differences = [FileDifference(file=path, what="is no longer made") for path in sorted(old.keys() - new.keys())]
    differences += [FileDifference(file=path, what="was not made before") for path in sorted(new.keys() - old.keys())]
    same = [path for path in old if old[path] == new.get(path)]
    differences += [_difference(*folders, path) for path in sorted((old.keys() & new.keys()) - set(same))]
    return ReplayedStep(
        address=record.address,
        again=artifact.address,
        same_files=len(same),
        differences=differences,
        seconds=(record.seconds, now.seconds),
    )


def _difference(old: Folder, new: Folder, path: str) -> FileDifference:
    if not path.endswith(".json"):
        return FileDifference(file=path, what="other bytes")
    fields = list(_fields("", old.read_json(path), new.read_json(path)))
    return FileDifference(file=path, what="other values" if fields else "clocks", fields=fields[:MAX_FIELDS])


def _fields(where: str, old: Any, new: Any) -> Iterator[str]:
    """Where two JSON values differ, and how; fields that tell the time are passed over."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in CLOCKS:
                yield from _fields(f"{where}.{name}" if where else str(name), old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _fields(f"{where}[{place}]", one, other)
    elif old != new:
        yield f"{where}: {_short(old)} then, {_short(new)} now"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
