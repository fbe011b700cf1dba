"""A filter with free parameters: anywhere in it `{low: 0.1, high: 0.6}` or `{choose: [...]}` marks a value to search.

`log: true` searches a range by ratio, `step` in steps; whole numbers stay whole. `name` names a parameter, and two places with
the same name and range get one value. `{recipe: NAME, parameter: value}` is a recipe with parameters, which may be free too. A
choice may be of whole filters, with free parameters of their own inside.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from datacomp_core.errors import SpecError
from datacomp_core.kind_registration import first_fault, parameter_text

MAX_FREE = 100
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(allow_inf_nan=False)]


class RangeParameter(BaseModel):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: Number
    high: Number
    step: Number | None = None
    log: bool = False
    name: str = Field(default="", max_length=60)

    @model_validator(mode="after")
    def _is_one(self) -> RangeParameter:
        if not self.low < self.high:
            raise SpecError(f"The range is empty: low is {self.low} and high is {self.high}; give a low below high.")
        if self.log and (self.low <= 0 or self.step is not None):
            raise SpecError("A range with log: true must begin above 0 and must not have a step.")
        if self.step is not None and self.step <= 0:
            raise SpecError(f"The step of a range must be above 0, but is {self.step}.")
        if self.step is not None and self.step > self.high - self.low:
            raise SpecError(f"The step {self.step} is larger than the range from {self.low} to {self.high}: give a smaller step.")
        return self

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """The smallest and the largest value that can be proposed."""
        if self.step is None:
            return self.low, self.high
        return self.low, self._at(self._num_steps(self.step), self.step)

    def _num_steps(self, step: int | float) -> int:
        return math.floor((self.high - self.low) / step + 1e-9)

    def _at(self, place: int, step: int | float) -> int | float:
        """The value after a number of steps, as a person writes it: 0.1 and two steps of 0.1 are 0.3."""
        value = self.low + place * step
        return value if isinstance(value, int) else _short(value)

    def values(self, most: int) -> list[int | float] | None:
        """Every value that can be proposed; None if there are more than `most`, or no end to them."""
        step = self.step or (1 if self.is_whole else None)
        if step is None or self._num_steps(step) >= most:
            return None
        return [self._at(place, step) for place in range(self._num_steps(step) + 1)]

    @property
    def in_words(self) -> str:
        how = ", by ratio" if self.log else "" if self.step is None else f", in steps of {self.step:g}"
        return f"{self.low:g} to {self.high:g}{how}"

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and (self.step is None or isinstance(self.step, int))


class ChoiceParameter(BaseModel):
    """One of several values, which may be filters."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    choose: tuple[Any, ...] = Field(min_length=2)
    name: str = Field(default="", max_length=60)

    @property
    def ends(self) -> tuple[str, ...]:
        """All labels."""
        return tuple(self.labels)

    def values(self, most: int) -> list[str] | None:
        """Every label; None if there are more than `most`."""
        return self.labels if len(self.choose) <= most else None

    @property
    def in_words(self) -> str:
        return " | ".join(self.labels)

    @property
    def labels(self) -> list[str]:
        """Return each option's label: the option itself, or the kind of a filter; numbered where two labels would be equal."""
        plain = [_label(option) for option in self.choose]
        return [name if plain.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(plain)]

    def option(self, label: str) -> Any:
        return self.choose[self.labels.index(label)]


Free = RangeParameter | ChoiceParameter
FREE: TypeAdapter[Free] = TypeAdapter(Free)
Take = Callable[[str, Free], Any]
"""Gives the value of a free parameter by its name: a number, or the label of an option."""


class FreeParameter:
    """A free parameter somewhere in a filter. `nested`: it is inside an option of a choice, so a trial may not propose it."""

    def __init__(self, path: tuple[str, ...], free: Free, *, nested: bool) -> None:
        self.path, self.free, self.nested = path, free, nested


class Space:
    """The free parameters of a filter by name, in order. SpecError for a filter without any, or a wrong one."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.places = list(_places(tree, (), nested=False))
        if not self.places:
            raise SpecError("The filter has nothing to search: write {low: 0.1, high: 0.6} or {choose: [...]} for a value.")
        if len(self.places) > MAX_FREE:
            raise SpecError(f"The filter has {len(self.places)} free parameters; at most {MAX_FREE} can be searched.")
        self._names = _names(self.places)
        self.free: dict[str, Free] = {}
        for place in self.places:
            name = self._names[place.path]
            if self.free.setdefault(name, place.free) != place.free:
                raise SpecError(f"The free parameter {name!r} has two different ranges: give each its own `name`.")

    def filled(self, take: Take) -> Any:
        """Return the filter with values; each name is proposed once, in order, and only where its choice was made."""
        taken: dict[str, Any] = {}

        def once(name: str, free: Free) -> Any:
            if name not in taken:
                taken[name] = take(name, free)
            return taken[name]

        return _filled(self.tree, (), self._names, once)

    def all_filled(self, most: int) -> dict[str, dict[str, Any]] | None:
        """The values of every filter of the space, by its text; None if there are more than `most`, or no end to them."""
        found: dict[str, dict[str, Any]] = {}
        waiting: list[dict[str, Any]] = [{}]
        while waiting:
            known = waiting.pop()
            try:
                tree = self.filled(partial(_known, known))
            except UndecidedError as asked:
                values = asked.free.values(most)
                if values is None:
                    return None
                waiting += [{**known, asked.name: value} for value in reversed(values)]
                continue
            found.setdefault(_text_of(tree), known)
            if len(found) > most:
                return None
        return found

    def of_values(self, values: Mapping[str, Any]) -> str:
        """One text for the filter of these values, equal for equal filters."""
        return _text_of(self.filled(partial(_known, values)))

    def untried(self, tried: Set[str], most: int) -> list[dict[str, Any]] | None:
        """The values of every filter that is not among `tried` (texts of `of_values`); None if the space has more than `most`."""
        every = self.all_filled(most)
        return None if every is None else [values for text, values in every.items() if text not in tried]

    def extremes(self) -> Iterator[tuple[str, str | int | float, tuple[Any, Any]]]:
        """`(name, value, filters)`: each end of each range and each option, in two filters: all other parameters are at their
        first end in one, and at their last in the other.
        """
        choices = {place.path: self._names[place.path] for place in self.places if isinstance(place.free, ChoiceParameter)}
        for place in self.places:
            own = self._names[place.path]
            above: dict[str, int] = {}  # the options in which it stands
            for depth, key in enumerate(place.path):
                if key.startswith("#") and place.path[:depth] in choices:
                    above[choices[place.path[:depth]]] = int(key[1:])
            for value in place.free.ends:
                first, last = (self.filled(partial(_end, {own: value}, above, which)) for which in (0, -1))
                yield own, value, (first, last)


class UndecidedError(Exception):
    """A filter cannot be filled before this parameter has a value."""

    def __init__(self, name: str, free: Free) -> None:
        super().__init__(name)
        self.name, self.free = name, free


def _known(values: Mapping[str, Any], name: str, free: Free) -> Any:
    if name not in values:
        raise UndecidedError(name, free)
    return values[name]


def _text_of(tree: Any) -> str:
    """One text for equal filters; steps may differ in a number's last bits."""
    return json.dumps(_rounded(tree), sort_keys=True)


def _rounded(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_rounded(value) for value in tree]
    return _short(tree) if isinstance(tree, float) else tree


def _short(value: float) -> float:
    return float(f"{value:.12g}")


def _end(values: Mapping[str, Any], above: Mapping[str, int], which: int, name: str, free: Free) -> Any:
    return values[name] if name in values else free.ends[above.get(name, which)]


def is_free(value: Any) -> bool:
    return isinstance(value, Mapping) and ("choose" in value or {"low", "high"} & set(value) != set()) and "kind" not in value


def _free(value: Any, path: tuple[str, ...]) -> Free:
    model: Any = ChoiceParameter if "choose" in value else RangeParameter
    try:
        return model.model_validate(value)
    except ValidationError as problem:
        where, given, why = first_fault(problem)
        raise SpecError(f"The free parameter at {'.'.join(path) or 'the top'}: {where}: {why} (given: {given!r}).") from problem


def _places(tree: Any, path: tuple[str, ...], *, nested: bool) -> Iterator[FreeParameter]:
    if is_free(tree):
        free = _free(tree, path)
        yield FreeParameter(path, free, nested=nested)
        if isinstance(free, ChoiceParameter):
            for place, option in enumerate(free.choose):
                yield from _places(option, (*path, f"#{place}"), nested=True)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _places(value, (*path, str(key)), nested=nested)
    elif isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            yield from _places(value, (*path, str(place)), nested=nested)


def _names(places: list[FreeParameter]) -> dict[tuple[str, ...], str]:
    """The name that a person gave, else the field's, with its place in the filter where several would be called the same."""
    short = [place.free.name or _field(place.path) for place in places]
    counts = Counter(name for name, place in zip(short, places, strict=True) if not place.free.name)
    given = {place.free.name for place in places if place.free.name}
    return {
        place.path: name if place.free.name or (counts[name] == 1 and name not in given) else ".".join(place.path)
        for name, place in zip(short, places, strict=True)
    }


def _field(path: tuple[str, ...]) -> str:
    return next((key for key in reversed(path) if not key.isdigit() and not key.startswith("#")), "filter")


def _filled(tree: Any, path: tuple[str, ...], names: Mapping[tuple[str, ...], str], take: Take) -> Any:
    if is_free(tree):
        free, value = _free(tree, path), take(names[path], _free(tree, path))
        if isinstance(free, RangeParameter):
            return value
        place = free.labels.index(value)
        return _filled(free.choose[place], (*path, f"#{place}"), names, take)
    if isinstance(tree, Mapping):
        made = {str(key): _filled(value, (*path, str(key)), names, take) for key, value in tree.items()}
        return _named(made) if "recipe" in made and "kind" not in made else made
    if isinstance(tree, (list, tuple)):
        return [_filled(value, (*path, str(place)), names, take) for place, value in enumerate(tree)]
    return tree


def _named(made: dict[str, Any]) -> str:
    """A recipe with parameters as one text."""
    rest = ",".join(f"{name}={parameter_text(value)}" for name, value in made.items() if name != "recipe")
    return f"{made['recipe']}:{rest}" if rest else str(made["recipe"])


def _label(option: Any) -> str:
    if isinstance(option, Mapping):
        return str(option.get("kind") or option.get("recipe") or "filter")
    return repr(round(option, 6)) if isinstance(option, float) and math.isfinite(option) else str(option)
