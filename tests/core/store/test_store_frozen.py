"""The fingerprints of every shipped recipe and spec, frozen: one that moves makes every store build it again.

Where one moves on purpose, raise the `version` of the filter, score or spec whose meaning changed and freeze anew:
`python tests/core/store/test_store_frozen.py`. Where it moves by accident (a renamed field, another default), undo that.
"""

from __future__ import annotations

import importlib
import itertools
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from datacomp_core.artifacts import Spec
from datacomp_core.registry import FILTERS, RECIPES, SCORES
from datacomp_core.scores.base import Score
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.store.fingerprint import canonical, fingerprint
from datacomp_core.store.step import STEPS, Step

FROZEN = Path(__file__).with_name("frozen_fingerprints.json")
HOW = (
    "{} has another fingerprint than every store was built with. If its meaning changed, raise `version` of its class and freeze "
    "again with `python tests/core/store/test_store_frozen.py`; if not, undo what moved it (a name, a default)."
)


def current() -> dict[str, dict[str, str]]:
    from datacomp_core.scales import SCALES
    from flows.parameters import ExperimentSpec

    ours = {kind: model for kind, model in (*FILTERS.items(), *SCORES.items()) if model.__module__.startswith("datacomp_core.")}
    specs: dict[str, Any] = {}
    for scale in (name for name, row in SCALES.items() if row.hub is not None or name == "tiny"):
        experiment = ExperimentSpec.model_validate({"scale": scale})
        chain = {**dict(experiment.preparation()), **dict(experiment.curation()), **dict(experiment.scoring())}
        specs.update({f"{scale}: {name}": spec for name, spec in chain.items() if isinstance(spec, BaseModel)})
    return {
        "recipes": {name: fingerprint(SubsetSpec(recipe=name)) for name, row in RECIPES.items() if _is_ours(row)},
        "specs": {name: fingerprint(spec) for name, spec in specs.items()},
        "defaults": {kind: fingerprint([model.version, _defaults(model)]) for kind, model in ours.items()},
        "steps": {name.removeprefix(f"{step.function.__module__}."): fingerprint(_step(step)) for name, step in our_steps()},
    }


def our_steps() -> list[tuple[str, Step[Any]]]:
    """Every step of the chain. The flows import their modules."""
    importlib.import_module("flows.gpu_step")
    importlib.import_module("flows.experiment")
    return sorted((name, step) for name, step in STEPS.items() if name.startswith("datacomp_core."))


def _step(step: Step[Any]) -> list[Any]:
    """What an address contains besides values: kind, version, and the names of the specs left of the star."""
    hints = typing.get_type_hints(step.function)
    return [step.kind, step.version, [sorted(set(_specs(hints[name]))) for name in step.identity]]


def _specs(hint: Any) -> Iterator[str]:
    """The names of the specs in an annotation; those of scores are of all kinds."""
    if isinstance(hint, type) and issubclass(hint, Score):
        yield from (f"{kind} {model.__name__}" for kind, model in SCORES.items() if model.__module__.startswith("datacomp_core."))
    elif isinstance(hint, type) and issubclass(hint, Spec):
        yield hint.__name__
    else:
        yield from itertools.chain.from_iterable(map(_specs, typing.get_args(hint)))


def _is_ours(row: Any) -> bool:
    return row.build.__module__.startswith("datacomp_core.")


def _defaults(model: Any) -> dict[str, Any]:
    fields = model.parameters()
    return {
        name: "required" if field.is_required() else canonical(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in fields.items()
    }


@pytest.mark.parametrize("group", ["recipes", "specs", "defaults", "steps"])
def test_no_fingerprint_moves(group: str) -> None:
    frozen, now = json.loads(FROZEN.read_text())[group], current()[group]
    moved = [name for name in now if frozen.get(name) != now[name]]
    assert not moved, HOW.format(", ".join(moved))
    assert sorted(frozen) == sorted(now), "freeze again: something was added or removed"


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current(), indent=1) + "\n")
