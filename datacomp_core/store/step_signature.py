"""Checks the star of a step: left of it are Specs and Artifacts, which are hashed; right of it the options of the run.

An input may be only planned: a plan represents the artifact that is not built yet.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from datacomp_core.artifacts import Artifact, Spec
from datacomp_core.store.fingerprint import canonical, of_content
from datacomp_core.store.fingerprint import identity as meaning_of

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class PlannedStep(Generic[A]):
    """A planned step: `artifact` is None until it is built; a plan may be the input of further plans."""

    kind: str
    name: str
    why: str
    address: str | None
    artifact: A | None
    seconds: float | None = None

    @property
    def is_built(self) -> bool:
        return self.artifact is not None


def check_signature(function: Callable[..., Any], kind: str) -> tuple[type[Any], tuple[str, ...], frozenset[str]]:
    where = f"{function.__module__}.{function.__qualname__}"
    hints = typing.get_type_hints(function)
    left, right = [], []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            left.append(parameter.name)
            if not _is_identity(hints.get(parameter.name)):
                raise TypeError(
                    f"{where}: {parameter.name!r} is left of the star, so it must be a Spec, an Artifact or a "
                    "tuple of Artifacts; move what says only how it is run to the right of it"
                )
        elif parameter.kind is parameter.KEYWORD_ONLY:
            right.append(parameter.name)
            if _is_identity(hints.get(parameter.name)):
                raise TypeError(
                    f"{where}: {parameter.name!r} is a Spec or an Artifact, so it must stand left of the star, where it is hashed"
                )
        else:
            raise TypeError(f"{where}: a step takes no *args or **kwargs")
    if not left or "out" not in right:
        raise TypeError(f"{where}: a step is (spec, artifacts, *, out: Folder, ...)")
    returns = hints.get("return")
    if not (isinstance(returns, type) and issubclass(returns, Artifact)):
        raise TypeError(f"{where}: a step returns an Artifact")
    if returns.kind != kind:
        raise TypeError(f"{where}: it makes {returns.kind!r}, not {kind!r}")
    return returns, tuple(left), frozenset(right)


def _is_identity(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return _is_identity(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(_is_identity(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return all(_is_identity(part) for part in typing.get_args(hint) if part is not Ellipsis)
    return isinstance(hint, type) and issubclass(hint, (Spec, Artifact))


def hashable_form(value: Any) -> Any:
    if isinstance(value, Artifact):
        assert value.fingerprint, f"{value.kind} without a fingerprint: it did not come from a step"
        return {"kind": value.kind, "fingerprint": value.fingerprint}
    if isinstance(value, tuple):
        return [hashable_form(item) for item in value]
    if value is None:
        return None
    if isinstance(value, Spec):
        return {"spec": type(value).__name__, "fields": meaning_of(value)}
    raise TypeError(f"{type(value).__name__} is left of the star; only Specs and Artifacts may be there")


def flatten(values: Any) -> list[Any]:
    return [item for value in values for item in (flatten(value) if isinstance(value, tuple) else [value]) if item is not None]


def is_named(value: Any) -> bool:
    """Whether the readable name of a spec is no part of what it means: a person chose it, or it may be that of a file."""
    if not isinstance(value, Spec):
        return False
    plain = canonical(value)
    return of_content(plain) != plain or any(getattr(value, name) == value.label() for name in value.names_for_people)


def built_inputs(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(built_inputs(item) for item in value)
    return value.artifact if isinstance(value, PlannedStep) else value


def name_placeholder(value: Any) -> Any:
    """Return the name of an input that is not built yet, as an object for naming functions."""
    if isinstance(value, tuple):
        return tuple(name_placeholder(item) for item in value)
    if isinstance(value, PlannedStep):
        return value.artifact or types.SimpleNamespace(name=value.name, scale="", recipe=value.name)
    return value


def path_segment(text: str) -> str:
    """Text as one readable path segment."""
    kept = "".join(c if c.isalnum() or c in "._-+" else "-" for c in text).strip("-.")
    return kept[:60] or "unnamed"
