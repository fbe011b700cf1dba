"""Finds a filter's inputs in a pool of the store, for a dry run. What is quickly made of the pool's own images and metadata
(sizes, hashes, scores without a model) is computed; nothing is trained, embedded or downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Captioned, Embeddings, Pool, Scores, ShardSet
from datacomp_core.errors import SpecError
from datacomp_core.store import PlannedStep
from flows.candidate_pool import candidates
from flows.filter_inputs import extra_inputs, named_captions
from flows.parameters import ExperimentSpec
from tasks import curate as curating
from tasks import pool as pooling
from tasks.run_step import store

QUICK = (pooling.read_download_columns, curating.score)


@dataclass(frozen=True)
class FilterInputs:
    """The inputs of a filter: the pool, its images if the store has them, and the artifacts beside the metadata."""

    pool: Pool
    shards: ShardSet | None
    beside: tuple[Embeddings | Scores | Captioned, ...]
    captioned: Captioned | None
    named: tuple[Captioned, ...]
    scores_of_named: tuple[Scores, ...]
    """The captions of the sources that a filter names, and the scores of the pairs with them."""


def filter_inputs(spec: ExperimentSpec) -> FilterInputs:
    """Return what an experiment's filter reads. SpecError if something is missing that a run makes at greater cost."""
    curation, preparation = spec.curation(), spec.preparation()
    found = candidates(_built_or_quick, preparation)
    images: Any = found.shards
    if isinstance(found.pool, PlannedStep):
        raise SpecError(f"The pool of {spec.scale} is not in the store yet: run `datacomp pool --scale {spec.scale}` first.")
    read, texts = extra_inputs(_built_or_quick, curation.subset, preparation, found, curation.captions)
    several: tuple[Any, ...] = read if isinstance(read, tuple) else (read,) if read is not None else ()
    named = named_captions(_built_or_quick, curation.subset, preparation, found, curation.captions)
    for one in (*several, *(one for some in named for one in some)):
        if isinstance(one, PlannedStep):
            raise SpecError(
                f"The filter {spec.recipe} reads what is not in the store yet: {one.kind} {one.name} ({one.why}). The same "
                "command without --explain makes it and the subset."
            )
    return FilterInputs(found.pool, None if isinstance(images, PlannedStep) else images, several, texts, *named)


def _built_or_quick(task: Any, /, *identity: Any, **_: Any) -> Any:
    """Return what a step made, or its plan if it is not built. A quick step whose inputs are built is run at once."""
    planned = task.fn.step.plan(*identity, store=store())
    if planned.is_built:
        return planned.artifact
    return task.fn(*identity) if task in QUICK and not _lacks_input(identity) else planned


def _lacks_input(identity: tuple[Any, ...]) -> bool:
    return any(_lacks_input(one) if isinstance(one, tuple) else isinstance(one, PlannedStep) for one in identity)
