"""The chain of steps from a pool to a leaderboard entry, written once: run by flows, walked by `plan`.

`call(task, *identity)` is how a step is called: submitted to Prefect, run at once, or only planned. Whatever it returns
(a future, an artifact, a plan) is handed on to the next step unopened, so all three follow the same chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datacomp_core.store import Planned, Store
from flows.parameters import Curation, ExperimentSpec, Preparation, Scoring
from tasks import curate as curating
from tasks import evaluate as evaluating
from tasks import pool as pooling
from tasks import train as training

Call = Callable[..., Any]


@dataclass(frozen=True)
class Prepared:
    """What every experiment over one pool shares."""

    pool: Any
    shards: Any
    embeddings: Any


@dataclass(frozen=True)
class Curated:
    subset: Any
    shards: Any


def prepare(call: Call, spec: Preparation) -> Prepared:
    """Pool, images, and the CLIP scores by a small scorer that is trained on the trusted set."""
    pool = call(pooling.build_pool, spec.pool)
    shards = call(pooling.download_images, spec.images, pool)
    trusted = call(pooling.build_trusted, spec.trusted)
    scorer = call(training.train, spec.scorer, (trusted,))
    embeddings = call(curating.embed, spec.embed, pool, shards, scorer)
    return Prepared(pool, shards, embeddings)


def curate(call: Call, spec: Curation, prepared: Prepared) -> Curated:
    """A subset by one recipe, and its samples as shards of their own."""
    subset = call(curating.select_subset, spec.subset, prepared.pool, prepared.embeddings)
    return Curated(subset, call(curating.reshard, spec.reshard, subset, prepared.shards))


def train_and_evaluate(call: Call, spec: Scoring, curated: Curated) -> Any:
    """One training on a curated set, scored on the scale's suite, entered on the board."""
    evalsets = call(pooling.build_evalsets, spec.evalsets)
    checkpoint = call(training.train, spec.train, (curated.shards,))
    report = call(evaluating.evaluate, spec.evaluate, checkpoint, evalsets)
    return call(evaluating.enter, spec.entry, report, checkpoint, curated.subset, curated.shards)


def experiments(call: Call, specs: Iterable[ExperimentSpec]) -> list[Any]:
    """Many experiments, each step once: what two of them have in common is called once and shared."""
    made: dict[Any, Any] = {}

    def once(task: Any, *identity: Any) -> Any:
        key = (id(task), tuple(item if hasattr(item, "model_fields_set") else _handle(item) for item in identity))
        if key not in made:
            made[key] = call(task, *identity)
        return made[key]

    return [_experiment(once, spec) for spec in specs]


def _experiment(call: Call, spec: ExperimentSpec) -> Any:
    curated = curate(call, spec.curation(), prepare(call, spec.preparation()))
    return train_and_evaluate(call, spec.scoring(), curated)


def _handle(value: Any) -> Any:
    return tuple(_handle(item) for item in value) if isinstance(value, tuple) else id(value)


def plan(specs: Iterable[ExperimentSpec], store: Store) -> list[Planned[Any]]:
    """Every step of some experiments in order, BUILT or TO BUILD. Nothing is run or written."""
    steps: list[Planned[Any]] = []

    def look(task: Any, *identity: Any) -> Planned[Any]:
        steps.append(task.fn.step.plan(*identity, store=store))
        return steps[-1]

    experiments(look, specs)
    return steps
