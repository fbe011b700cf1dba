"""Your own sets mixed into a filtered pool (BYOD): which shard sets, and how often each sample of them is taken.

`--mix shards/ADDRESS=2`, a file of addresses with weights, or a published mix by name: `cc12m_and_pool:cc12m=shards/ADDRESS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datacomp_core.errors import DataError, SpecError
from datacomp_core.kind_registration import call_with_text
from datacomp_core.untrusted_documents import read_yaml

FILES = (".yaml", ".yml", ".json")
ADDRESS = "shards/"
Mix = dict[str, float]
"""Weights by the address of a shard set."""


class MixRecipe(NamedTuple):
    """`build` makes the mix from keyword parameters; of several sets the addresses are given with `+` between."""

    build: Callable[..., Mix]
    description: str
    source: str


def cc12m_and_pool(cc12m: str, weight: float = 1.0) -> Mix:
    return {cc12m: weight}


def external_and_pool(sets: str, weight: float = 1.0) -> Mix:
    return dict.fromkeys(sets.split("+"), weight)


DATACOMP = "Gadre et al. 2023, arXiv 2304.14108, bring your own data"
MIX_RECIPES: dict[str, MixRecipe] = {
    "cc12m_and_pool": MixRecipe(cc12m_and_pool, "CC12M beside what the filter keeps of the pool.", DATACOMP),
    "external_and_pool": MixRecipe(
        external_and_pool,
        "Several external sets (the paper has CC12M, YFCC15M, RedCaps, Shutterstock and others) beside what the filter keeps. "
        "The paper's factors could not be read in the source here: give your own weight.",
        DATACOMP,
    ),
}


def load_mix(given: Sequence[str]) -> Mix:
    """The mix of addresses (`shards/ADDRESS` or `shards/ADDRESS=WEIGHT`), of a YAML or JSON file, or of recipes by name.

    SpecError with one sentence for what is wrong.
    """
    found: Mix = {}
    for text in given:
        for address, weight in _mix_of(text.strip()).items():
            if address in found:
                raise SpecError(f"--mix names {address} twice: give it one weight.")
            found[address] = _weight(weight, address)
    return found


def _mix_of(text: str) -> Mapping[str, object]:
    if text.startswith(ADDRESS):
        address, equals, weight = text.partition("=")
        return {address: weight if equals else 1.0}
    if text.endswith(FILES):
        return _of_file(text)
    name = text.partition(":")[0]
    if name not in MIX_RECIPES:
        raise SpecError(
            f"--mix {text!r} is none of these: a shard set of the store ({ADDRESS}ADDRESS or {ADDRESS}ADDRESS=WEIGHT), a YAML "
            f"file, or a mix by name ({', '.join(MIX_RECIPES)})."
        )
    return call_with_text(MIX_RECIPES[name].build, "mix", name, text, f"{ADDRESS}ADDRESS.")


def _of_file(place: str) -> Mapping[str, object]:
    try:
        given = read_yaml(Path(place))
    except DataError as problem:
        raise SpecError(str(problem)) from problem
    inner = given.get("mix") if isinstance(given, Mapping) and set(given) == {"mix"} else None
    if not isinstance(inner, Mapping) or not inner:
        raise SpecError(f"{place} is not a mix: write `mix:` and below it `{ADDRESS}ADDRESS: WEIGHT`, a line for each shard set.")
    return {str(address): weight for address, weight in inner.items()}


def _weight(given: object, address: str) -> float:
    if not address.startswith(ADDRESS):
        raise SpecError(f"The mix names {address!r}, which is not the address of a shard set ({ADDRESS}...).")
    try:
        weight = float(given) if isinstance(given, (int, float, str)) and not isinstance(given, bool) else math.nan
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight <= 0:
        raise SpecError(f"The weight of {address} in the mix is {given!r}: give a number above 0 (2: each sample twice).")
    return weight
