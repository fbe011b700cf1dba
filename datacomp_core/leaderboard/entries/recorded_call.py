"""Finds the call that made a record: which step, with which specs and inputs, and whether the fingerprint agrees.

Records do not name their function, only its kind and parameters, so that functions may move. A step fits if it takes these
parameters and gives this fingerprint; if none does, the code has changed since, and the result says so.
"""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from datacomp_core.artifacts import Artifact, Spec
from datacomp_core.store import Step
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.record import Record
from datacomp_core.store.step import STEPS


@dataclass(frozen=True)
class RecordedCall:
    """A step and its identity, left of the star."""

    step: Step[Any]
    identity: tuple[Any, ...]


def kinds() -> dict[str, type[Artifact]]:
    """Artifact classes by kind."""
    return {kind.kind: kind for kind in Artifact.__subclasses__()}


def artifact_of(record: Record) -> Artifact:
    """The artifact a record describes. ValidationError or KeyError if this code has no such kind."""
    return kinds()[record.kind].model_validate(record.artifact)


def call_of(record: Record, artifact: Callable[[str], Artifact | None]) -> RecordedCall | None:
    """The call that made a record, or None if no step of this code has its fingerprint. `artifact` gives an input by address."""
    for step in STEPS.values():
        if step.kind != record.kind or set(step.identity) != record.spec.keys() | record.inputs.keys():
            continue
        for identity in itertools.product(*_readings(step, record, artifact)):
            if _agrees(step, identity, record):
                return RecordedCall(step, identity)
    return None


def _agrees(step: Step[Any], identity: tuple[Any, ...], record: Record) -> bool:
    own, content = step.fingerprint(*identity), str(record.artifact.get("content") or "")
    return record.fingerprint == (fingerprint([own, content]) if content else own)


def _readings(step: Step[Any], record: Record, artifact: Callable[[str], Artifact | None]) -> list[list[Any]]:
    """Yield the possible values of each parameter; nothing if this code cannot read the record."""
    hints = typing.get_type_hints(step.function, include_extras=True)
    return [
        _specs(hints[name], record.spec[name]) if name in record.spec else _inputs(hints[name], record.inputs[name], artifact)
        for name in step.identity
    ]


def _inputs(hint: Any, used: Sequence[Mapping[str, str]], artifact: Callable[[str], Artifact | None]) -> list[Any]:
    """An artifact, none, or a tuple of them: a record lists its inputs, whichever way they were given."""
    found = tuple(artifact(one["address"]) for one in used)
    if any(item is None for item in found):
        return []
    several = [typing.get_origin(kind) is tuple for kind in _members(hint)]
    alone = [found[0] if found else None] if len(found) < 2 and not all(several) else []
    return [*alone, *([found] if any(several) else [])]


def _specs(hint: Any, plain: Any) -> list[Spec]:
    found: list[Spec] = []
    if typing.get_origin(hint) is typing.Annotated:  # a spec of any kind that a registry knows
        with suppress(ValidationError):
            read = TypeAdapter(hint).validate_python(plain)
            return [read] if isinstance(read, Spec) else []
    for kind in _members(hint):
        if isinstance(kind, type) and issubclass(kind, Spec):
            with suppress(ValidationError):
                found.append(kind.model_validate(plain))
    return found


def _members(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, unions and annotations opened."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from _members(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _members(part)
    else:
        yield hint
