"""The chain of steps from a pool to a leaderboard entry, written once: run by flows, walked by `plan`.

`call(task, *identity)` is how a step is called: submitted to Prefect, run at once, or only planned. Whatever it returns
(a future, an artifact, a plan) is handed on to the next step unopened, so all three follow the same chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Artifact, Checkpoint, EvalSets, Pool, ShardSet, Spec
from datacomp_core.errors import SpecError
from datacomp_core.parts import METADATA, SCHEMA
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.byod import ByodPoolSpec
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.pool.images import download_images
from datacomp_core.pool.learned import COLUMNS as LEARNED
from datacomp_core.pool.learned import LearnedSpec
from datacomp_core.pool.tiny import TinyEvalSpec, TinyPoolSpec
from datacomp_core.resharding.faces import FaceSpec
from datacomp_core.resharding.mix import MixSpec
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.source import Source
from datacomp_core.store import Planned, Store
from datacomp_core.store.fingerprint import fingerprint
from flows.parameters import Curation, ExperimentSpec, Preparation, Scoring
from tasks import curate as curating
from tasks import evaluate as evaluating
from tasks import pool as pooling
from tasks import train as training
from tasks.running import store, stored

Call = Callable[..., Any]


@dataclass(frozen=True)
class Candidates:
    """What every experiment over one pool starts from."""

    pool: Any
    shards: Any


@dataclass(frozen=True)
class Curated:
    """A training set."""

    subset: Any
    shards: Any


@dataclass(frozen=True)
class Scored:
    """What a training set was worth."""

    checkpoint: Any
    report: Any
    entry: Any


OWN = ("byod", "adopted", "folder")
BUILDERS: dict[type, Any] = {
    TinyPoolSpec: pooling.build_pool,
    HubPoolSpec: pooling.fetch_metadata,
    ByodPoolSpec: pooling.import_pool,
    AdoptedPoolSpec: pooling.adopt_metadata,
    FolderPoolSpec: pooling.import_folder,
}
"""What makes a pool of each kind."""


def metadata(call: Call, spec: Preparation) -> Any:
    """The pool alone; no picture is asked for."""
    return stored(Pool, spec.stored_pool) if spec.stored_pool else call(BUILDERS[type(spec.pool)], spec.pool)


def candidates(call: Call, spec: Preparation) -> Candidates:
    """The pool and its images: those that are named, those that the store has of a named pool, else a download."""
    pool = metadata(call, spec)
    if spec.stored_shards:
        return Candidates(pool, stored(ShardSet, spec.stored_shards))
    lying = spec.pool if not spec.stored_pool else lying_spec(spec.stored_pool)
    if isinstance(lying, FolderPoolSpec):
        return Candidates(pool, call(pooling.pack_folder, lying, pool))
    if isinstance(lying, AdoptedPoolSpec):
        return Candidates(pool, call(pooling.adopt_shards, lying, pool))
    if spec.stored_pool and (there := images_there(spec, pool)) is not None:
        return Candidates(pool, there)
    with pooling.reaching(spec.open_networks):
        return Candidates(pool, call(pooling.download_images, spec.images, pool))


def lying_spec(address: str) -> AdoptedPoolSpec | FolderPoolSpec | None:
    """What a pool of the store was made as whose images lie where it lies, and are never fetched by url."""
    record = store().record(address)
    spec = (record.spec if record else {}).get("spec", {})
    kinds = {"adopted": AdoptedPoolSpec, "folder": FolderPoolSpec}
    return kinds[spec["scale"]].model_validate(spec) if spec.get("scale") in kinds else None


def images_there(spec: Preparation, pool: Pool) -> ShardSet | None:
    """The one download of a pool that the store has, unless it has just the one that the scale asks for.

    SpecError if there are several.
    """
    wanted = download_images.address(spec.images, pool)
    records = [
        record
        for record in store().records(ShardSet.kind)
        if [given["address"] for given in record.inputs.get("pool", [])] == [pool.address] and "subset" not in record.inputs
    ]
    if not records or any(record.address == wanted for record in records):
        return None
    if len(records) > 1:
        named = ", ".join(record.address for record in records)
        raise SpecError(f"The store has several downloads of {pool.address}: choose one with `shards` (--shards): {named}.")
    return store().artifact(ShardSet, records[0])


def scores(call: Call, spec: Preparation, found: Candidates) -> Any:
    """CLIP scores of the candidates: by models of open_clip, checkpoints of the store, or a small scorer of our own."""
    stored_ones = tuple(stored(Checkpoint, address) for address in spec.scorers)
    own = stored_ones or ((scorer(call, spec),) if spec.embed.num_checkpoints else ())
    return call(curating.embed, spec.embed, found.pool, found.shards, own)


def scorer(call: Call, spec: Preparation) -> Any:
    """The CLIP that scores: a checkpoint of the store, or at `tiny` a small one that is trained on the trusted set."""
    if spec.scorers:
        return stored(Checkpoint, spec.scorers[0])
    if spec.scorer is None:
        raise SpecError(
            f"This filter reads a score that the metadata of {_pool_of(spec)} does not have: name a model to compute it with "
            "(`embed`; --embed NAME=checkpoints/ADDRESS or NAME=MODEL:TAG@SHA256), or choose another filter."
        )
    trusted = call(pooling.build_trusted, spec.trusted)
    return call(training.train, spec.scorer, (trusted,))


def beside(call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates) -> Any:
    """What a filter reads beside the metadata: embeddings, and a column for each score that it computes from them."""
    _check_filled(spec, preparation, found.pool)
    embeddings = _embeddings(call, spec, preparation, found)
    columns = [call(pooling.learned, LearnedSpec(), found.pool, found.shards)] if _asks_the_ledger(spec, preparation) else []
    columns += [
        call(
            curating.score,
            score,
            found.pool,
            embeddings if "features" in score.needs else None,
            found.shards if "images" in score.needs or score.reads_index() else None,
            scorer(call, preparation) if "model" in score.needs else None,
        )
        for score in spec.scores()
    ]
    return (*([embeddings] if embeddings is not None else []), *columns) if columns else embeddings


def _check_filled(spec: SubsetSpec, preparation: Preparation, pool: Any) -> None:
    """DataError for a column that is empty in all of a pool of one's own, and that nothing of this run fills."""
    if not isinstance(pool, Pool) or not is_own(preparation):
        return
    made = {encoder.column for encoder in preparation.embed.encoders} if preparation.embeds else set[str]()
    wanted = (spec.columns() & set(SCHEMA.names())) - made - set(LEARNED)
    source = Source(store().folder(pool) / METADATA)
    source.check_filled(source.parts(), wanted)


def _asks_the_ledger(spec: SubsetSpec, preparation: Preparation) -> bool:
    """Whether a filter reads what a pool of one's own lacks in its metadata and its download has learned."""
    return bool(spec.columns() & set(LEARNED)) and is_own(preparation)


def is_own(preparation: Preparation) -> bool:
    """Whether the pool is of one's own data, whose metadata knows little."""
    if not preparation.stored_pool:
        return preparation.pool.scale in OWN
    record = store().record(preparation.stored_pool)
    return record is not None and record.spec.get("spec", {}).get("scale") in OWN


def _embeddings(call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates) -> Any:
    """What embedding the pool brings, where the filter needs it. A pool without a scorer has its features beside the metadata."""
    made = {encoder.column for encoder in preparation.embed.encoders if preparation.embeds}
    if not spec.needs_embeddings() and not made & spec.columns():
        return None
    if preparation.embeds or spec.columns_to_make():
        return scores(call, preparation, found)
    if not preparation.stored_pool and isinstance(preparation.pool, HubPoolSpec) and preparation.pool.features == "leave":
        raise SpecError(
            f"This filter reads the features of {_pool_of(preparation)}, 25 times the size of its metadata: make the pool with "
            "prepare-pool and features=fetch, and give its address."
        )
    return None


def _pool_of(spec: Preparation) -> str:
    return spec.stored_pool or f"CommonPool {spec.scale}"


def curate(call: Call, spec: Curation, preparation: Preparation, found: Candidates) -> Curated:
    """A subset by one recipe, and its samples as shards of their own. Only a recipe that reads scores waits for them."""
    subset = call(curating.select_subset, spec.subset, found.pool, beside(call, spec.subset, preparation, found))
    return laid_out(call, spec, subset, found)


def laid_out(call: Call, spec: Curation, subset: Any, found: Candidates) -> Curated:
    """A subset's samples as shards of their own, as a view into the pool's, or mixed with sets of one's own."""
    layout = spec.layout
    if layout.form == "view":
        return Curated(subset, call(curating.view, spec.reshard, subset, found.shards))
    if layout.faces == "leave":
        shards = call(curating.reshard, spec.reshard, subset, found.shards)
    else:
        faces = FaceSpec(treatment=layout.faces)
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


def testsets(call: Call, spec: Scoring) -> Any:
    """The scale's test sets."""
    if spec.stored_evalsets:
        return stored(EvalSets, spec.stored_evalsets)
    makes = pooling.build_evalsets if isinstance(spec.evalsets, TinyEvalSpec) else evaluating.download_evalsets
    return call(makes, spec.evalsets)


def score(call: Call, spec: Scoring, shards: tuple[Any, ...]) -> tuple[Any, Any]:
    """A checkpoint and its report."""
    evalsets = testsets(call, spec)
    checkpoint = call(training.train, spec.train, shards)
    return checkpoint, call(evaluating.evaluate, spec.evaluate, checkpoint, evalsets)


def training_set(call: Call, spec: ExperimentSpec) -> Curated:
    """An experiment up to its shards."""
    preparation = spec.preparation()
    return curate(call, spec.curation(), preparation, candidates(call, preparation))


def experiment(call: Call, spec: ExperimentSpec) -> Scored:
    """The whole chain."""
    return train_and_evaluate(call, spec.scoring(), training_set(call, spec))


def experiments(call: Call, specs: Iterable[ExperimentSpec]) -> list[Any]:
    """Many experiments, each step once: what two of them have in common is called once and shared."""
    made: dict[Any, Any] = {}

    def once(task: Any, *identity: Any) -> Any:
        key = (id(task), tuple(_handle(item) for item in identity))
        if key not in made:
            made[key] = call(task, *identity)
        return made[key]

    return [experiment(once, spec).entry for spec in specs]


STAGES: dict[str, Callable[[Call, ExperimentSpec], Any]] = {
    "pool": lambda call, spec: candidates(call, spec.preparation()).shards,
    "embed": lambda call, spec: scores(call, spec.preparation(), candidates(call, spec.preparation())),
    "filter": lambda call, spec: training_set(call, spec).subset,
    "reshard": lambda call, spec: training_set(call, spec).shards,
    "train": lambda call, spec: call(training.train, spec.scoring().train, (training_set(call, spec).shards,)),
    "evaluate": lambda call, spec: experiment(call, spec).report,
}
"""An experiment up to a stage, and what it has made by then."""


def _handle(value: Any) -> Any:
    """What tells two inputs of a call apart: specs by value, artifacts by fingerprint, what is not there yet by itself."""
    if isinstance(value, tuple):
        return tuple(_handle(item) for item in value)
    if isinstance(value, Artifact):
        return value.fingerprint
    return (type(value).__name__, fingerprint(value)) if isinstance(value, Spec) else id(value)


def plan(walk: Callable[[Call], Any], where: Store) -> list[Planned[Any]]:
    """Every step that `walk` calls, in order, BUILT or TO BUILD. Nothing is run or written."""
    steps: list[Planned[Any]] = []

    def look(task: Any, *identity: Any) -> Planned[Any]:
        steps.append(task.fn.step.plan(*identity, store=where))
        return steps[-1]

    walk(look)
    return steps
