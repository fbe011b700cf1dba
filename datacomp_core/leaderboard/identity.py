"""From a record back to the call that made it: which step, with which specs and inputs, and whether the fingerprint agrees.

Records do not name their function, only its kind and parameters, so that functions may move. A step fits if it takes these
parameters and gives this fingerprint; if none does, the code has changed since, and that is said.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from datacomp_core.artifacts import Artifact, Spec
from datacomp_core.store import Step
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.record import Record
from datacomp_core.store.step import STEPS


@dataclass(frozen=True)
class Call:
    """A step and its identity, left of the star."""

    step: Step[Any]
    identity: tuple[Any, ...]


def kinds() -> dict[str, type[Artifact]]:
    """Artifact classes by kind."""
    return {kind.kind: kind for kind in Artifact.__subclasses__()}


def artifact_of(record: Record) -> Artifact:
    """The artifact a record describes. ValidationError or KeyError if this code has no such kind."""
    return kinds()[record.kind].model_validate(record.artifact)


def call_of(record: Record, artifact: Callable[[str], Artifact | None]) -> Call | None:
    """The call that made a record, or None if no step of this code has its fingerprint. `artifact` gives an input by address."""
    for step in STEPS.values():
        if step.kind != record.kind or set(step.identity) != record.spec.keys() | record.inputs.keys():
            continue
        identity = _identity(step, record, artifact)
        if identity is not None and _agrees(step, identity, record):
            return Call(step, identity)
    return None


def _agrees(step: Step[Any], identity: tuple[Any, ...], record: Record) -> bool:
    own, content = step.fingerprint(*identity), str(record.artifact.get("content") or "")
    return record.fingerprint == (fingerprint([own, content]) if content else own)


def _identity(step: Step[Any], record: Record, artifact: Callable[[str], Artifact | None]) -> tuple[Any, ...] | None:
    hints, values = typing.get_type_hints(step.function), list[Any]()
    for name in step.identity:
        if name in record.spec:
            value = _spec(hints[name], record.spec[name])
            if value is None:
                return None
        else:
            found = [artifact(used["address"]) for used in record.inputs[name]]
            if any(item is None for item in found):
                return None
            several = any(typing.get_origin(kind) is tuple for kind in _members(hints[name]))
            value = tuple(found) if several else (found[0] if found else None)
        values.append(value)
    return tuple(values)


def _spec(hint: Any, plain: Any) -> Spec | None:
    for kind in _members(hint):
        if isinstance(kind, type) and issubclass(kind, Spec):
            try:
                return kind.model_validate(plain)
            except ValidationError:
                continue
    return None


def _members(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, unions and annotations opened."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from _members(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _members(part)
    else:
        yield hint
