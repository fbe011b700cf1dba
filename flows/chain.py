"""Defines the chain of steps from a pool to a leaderboard entry once; flows run it and `plan` walks it. `call(task,
*identity)` calls a step: it submits the step to Prefect, runs it at once, or only plans it. Its return value (a future, an
artifact, a plan) is passed to the next step unopened, so all three follow the same chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Artifact, BoardEntry, Captioned, Checkpoint, EvalReport, EvalSets, ShardSet, Spec, Subset
from datacomp_core.device import default_device
from datacomp_core.errors import SpecError
from datacomp_core.pool.tiny import TinyEvalSpec
from datacomp_core.resharding.faces import FaceSpec
from datacomp_core.resharding.mix import MixSpec
from datacomp_core.settings import settings
from datacomp_core.store import PlannedStep, Store
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.training.cuda_decoding import require_cuda
from flows.candidate_pool import Candidates, candidates
from flows.filter_inputs import embedded, extra_inputs, named_captions
from flows.parameters import Curation, ExperimentSpec, Preparation, Scoring
from flows.task_calls import Call
from tasks import captions as captioning
from tasks import curate as curating
from tasks import evaluate as evaluating
from tasks import pool as pooling
from tasks import train as training
from tasks.run_step import store, stored


@dataclass(frozen=True)
class Curated:
    """A training set."""

    subset: Subset
    shards: ShardSet


@dataclass(frozen=True)
class Scored:
    """The result of a training set."""

    checkpoint: Checkpoint
    report: EvalReport
    entry: BoardEntry


def curate(call: Call, spec: Curation, preparation: Preparation, found: Candidates) -> Curated:
    """Make a subset with one recipe, and shards of its samples."""
    subset, texts = select(call, spec, preparation, found)
    return laid_out(call, spec, subset, found, texts if spec.captions.trains else None)


def select(call: Call, spec: Curation, preparation: Preparation, found: Candidates) -> tuple[Subset, Captioned | None]:
    """A subset by one recipe, and the captions of the experiment's policy. Only a recipe that reads scores waits for them."""
    call = each_once(call)
    read, texts = extra_inputs(call, spec.subset, preparation, found, spec.captions)
    if not spec.subset.captions():
        return call(curating.select_subset, spec.subset, found.pool, read), texts
    named = named_captions(call, spec.subset, preparation, found, spec.captions)
    return call(curating.select_subset_by_captions, spec.subset, found.pool, read, *named), texts


def laid_out(call: Call, spec: Curation, subset: Subset, found: Candidates, texts: Captioned | None = None) -> Curated:
    """Write a subset's samples into new shards, as a view into the pool's shards, or mixed with custom sets. `texts`: their
    captions by a policy; None: the pool's own.
    """
    layout, policy = spec.layout, spec.captions.policy
    faces = None if layout.faces == "leave" else FaceSpec(treatment=layout.faces)
    if layout.form == "view" and texts is not None:
        return Curated(subset, call(captioning.view_captions, spec.reshard, policy, subset, found.shards, texts))
    if layout.form == "view":
        return Curated(subset, call(curating.view, spec.reshard, subset, found.shards))
    if texts is not None:
        of = found.pool if faces is not None else None
        shards = call(captioning.reshard_captions, spec.reshard, faces, policy, subset, (found.shards,), texts, of)
    elif faces is None:
        shards = call(curating.reshard, spec.reshard, subset, found.shards)
    else:
        shards = call(curating.reshard_faces, spec.reshard, faces, subset, found.shards, found.pool)
    if not layout.mix_in:
        return Curated(subset, shards)
    several = (shards, *(stored(ShardSet, address) for address in layout.mix_in))
    mixed = call(curating.mix, MixSpec(weights=(1.0, *layout.weights), seed=spec.reshard.seed), several)
    return Curated(mixed, call(curating.reshard_several, spec.reshard, mixed, several))


def train_and_evaluate(call: Call, spec: Scoring, curated: Curated) -> Scored:
    """One training on a curated set, scored on the scale's suite, entered on the board."""
    checkpoint, report = score(call, spec, (curated.shards,))
    return Scored(checkpoint, report, call(evaluating.enter, spec.entry, report, checkpoint, curated.subset, curated.shards))


def testsets(call: Call, spec: Scoring) -> EvalSets:
    """The scale's test sets."""
    if spec.stored_evalsets:
        return stored(EvalSets, spec.stored_evalsets)
    if isinstance(spec.evalsets, TinyEvalSpec):
        return call(pooling.build_evalsets, spec.evalsets)
    return call(evaluating.download_evalsets, spec.evalsets)


def score(call: Call, spec: Scoring, shards: tuple[ShardSet, ...]) -> tuple[Checkpoint, EvalReport]:
    """A checkpoint and its report. The user's own tasks have a report beside it, which the board looks up by the checkpoint."""
    evalsets = testsets(call, spec)
    checkpoint = call(training.train, spec.train, shards)
    if spec.own_tasks.tasks:
        own = call(evaluating.bring_own_sets, spec.own_tasks.evalsets())
        call(evaluating.evaluate, spec.own_tasks.evaluation(), checkpoint, own)
    return checkpoint, call(evaluating.evaluate, spec.evaluate, checkpoint, evalsets)


def subset_of(call: Call, spec: ExperimentSpec) -> Subset:
    """An experiment up to its subset."""
    preparation = spec.preparation()
    return select(call, spec.curation(), preparation, candidates(call, preparation))[0]


def training_set(call: Call, spec: ExperimentSpec) -> Curated:
    """An experiment up to its shards."""
    preparation = spec.preparation()
    return curate(call, spec.curation(), preparation, candidates(call, preparation))


def experiment(call: Call, spec: ExperimentSpec) -> Scored:
    """The whole chain."""
    return train_and_evaluate(call, spec.scoring(), training_set(call, spec))


def experiments(call: Call, specs: Iterable[ExperimentSpec]) -> list[BoardEntry]:
    """Run many experiments with each step once: shared steps are called once. SpecError, before any call, for a training that
    this machine cannot run.
    """
    specs, once = list(specs), each_once(call)
    for spec in specs:
        require_device(spec)
    return [experiment(once, spec).entry for spec in specs]


def each_once(call: Call) -> Call:
    """Wrap `call` so that it calls a step with the same identity only once."""
    made: dict[Any, Any] = {}

    def once(task: Any, /, *identity: Any, **options: Any) -> Any:
        key = (id(task), tuple(_handle(item) for item in identity))
        if key not in made:
            made[key] = call(task, *identity, **options)
        return made[key]

    return once


def trained(call: Call, spec: ExperimentSpec) -> Checkpoint:
    """An experiment up to its checkpoint."""
    return call(training.train, spec.scoring().train, (training_set(call, spec).shards,))


def require_device(spec: ExperimentSpec) -> None:
    """SpecError if an experiment decodes on the GPU, and its training is not built and would run on this machine without one."""
    if spec.decoding != "cuda" or settings().gpu_deployment:
        return
    try:
        require_cuda(default_device())
    except SpecError:
        if not plan(lambda call: trained(call, spec), store())[-1].is_built:
            raise


def _on_its_device(walk: Callable[[Call, ExperimentSpec], Any]) -> Callable[[Call, ExperimentSpec], Any]:
    def checked(call: Call, spec: ExperimentSpec) -> Any:
        require_device(spec)
        return walk(call, spec)

    return checked


STAGES: dict[str, Callable[[Call, ExperimentSpec], Any]] = {
    "pool": lambda call, spec: candidates(call, spec.preparation()).shards,
    "embed": embedded,
    "filter": subset_of,
    "reshard": lambda call, spec: training_set(call, spec).shards,
    "train": _on_its_device(trained),
    "evaluate": _on_its_device(lambda call, spec: experiment(call, spec).report),
}
"""Run an experiment up to a stage, and return its artifacts."""


def _handle(value: Any) -> Any:
    """Return the identity of a call's input: specs by value, artifacts by fingerprint, pending results by object."""
    if isinstance(value, tuple):
        return tuple(_handle(item) for item in value)
    if isinstance(value, Artifact):
        return value.fingerprint
    return (type(value).__name__, fingerprint(value)) if isinstance(value, Spec) else id(value)


def plan(walk: Callable[[Call], Any], where: Store) -> list[PlannedStep[Any]]:
    """Return every step that `walk` calls, in order, as BUILT or TO BUILD. Nothing is run or written."""
    steps: list[PlannedStep[Any]] = []

    def look(task: Any, /, *identity: Any, **_: Any) -> Any:
        steps.append(task.fn.step.plan(*identity, store=where))
        return steps[-1]

    walk(look)
    return steps
