"""The chain of steps from a pool to a leaderboard entry, written once: run by flows, walked by `plan`.

`call(task, *identity)` is how a step is called: submitted to Prefect, run at once, or only planned. Whatever it returns
(a future, an artifact, a plan) is handed on to the next step unopened, so all three follow the same chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datacomp_core.artifacts import Artifact, Captions, Checkpoint, EvalSets, Pool, ShardSet, Spec
from datacomp_core.caption_policy import CaptionPlan
from datacomp_core.embedding.captions import CaptionEmbedSpec
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
from tasks import captions as captioning
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
OWN_CAPTIONS = CaptionPlan()
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


def captioned(
    call: Call, plan: CaptionPlan, spec: SubsetSpec, preparation: Preparation, found: Candidates, embeddings: Any
) -> Any:
    """What a policy makes of the pool's captions; None for its own. Sets are embedded where a score of the new pairs is read."""
    if not plan.edits:
        return None
    sets = tuple(stored(Captions, address) for address in plan.sets)
    wanted = {*spec.columns(), plan.policy.score}
    mine = tuple(encoder for encoder in preparation.embed.encoders if encoder.column in wanted) if embeddings is not None else ()
    if mine and not plan.policy.draws:
        embed = CaptionEmbedSpec.model_validate({**dict(preparation.embed), "encoders": mine})
        models = _scorers_of(call, preparation, embed)
        sets = tuple(call(captioning.embed_captions, embed, one, found.pool, embeddings, models) for one in sets)
    scored = (embeddings,) if embeddings is not None and not plan.policy.draws else ()
    return call(captioning.choose_captions, plan.policy, found.pool, sets, scored)


def embedded(call: Call, spec: ExperimentSpec) -> Any:
    """Scores of the pool's pairs, or with captions the sets of the policy with scores of the new pairs (the last of them)."""
    preparation, plan = spec.preparation(), spec.captions
    found = candidates(call, preparation)
    own = scores(call, preparation, found)
    if not plan.edits:
        return own
    embed = CaptionEmbedSpec.model_validate(dict(preparation.embed))
    models = _scorers_of(call, preparation, embed)
    made = [call(captioning.embed_captions, embed, stored(Captions, one), found.pool, own, models) for one in plan.sets]
    return made[-1]


def _scorers_of(call: Call, preparation: Preparation, embed: CaptionEmbedSpec) -> tuple[Any, ...]:
    """The checkpoints of those encoders that name no model."""
    own = tuple(stored(Checkpoint, address) for address in preparation.scorers)
    own = own or ((scorer(call, preparation),) if preparation.embed.num_checkpoints else ())
    named = [encoder for encoder in preparation.embed.encoders if not encoder.model]
    return tuple(one for encoder, one in zip(named, own, strict=False) if encoder in embed.encoders)


def beside(
    call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates, plan: CaptionPlan = OWN_CAPTIONS
) -> tuple[Any, Any]:
    """What a filter reads beside the metadata (embeddings, a column a computed score, captions), and these captions."""
    _check_filled(spec, preparation, found.pool)
    embeddings = _embeddings(call, spec, preparation, found, plan.policy.score)
    texts = captioned(call, plan, spec, preparation, found, embeddings)
    columns = [call(pooling.learned, LearnedSpec(), found.pool, found.shards)] if _asks_the_ledger(spec, preparation) else []
    columns += [
        call(
            curating.score if texts is None or plan.policy.draws else captioning.score_captioned,
            score,
            found.pool,
            embeddings if "features" in score.needs else None,
            found.shards if "images" in score.needs or score.reads_index() else None,
            scorer(call, preparation) if "model" in score.needs else None,
            *(() if texts is None or plan.policy.draws else (texts,)),
        )
        for score in spec.scores()
    ]
    columns += [texts] if texts is not None else []
    return ((*([embeddings] if embeddings is not None else []), *columns) if columns else embeddings), texts


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


def _embeddings(call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates, score: str = "") -> Any:
    """What embedding the pool brings, where the filter or a caption policy needs it (its `score`).

    A pool without a scorer has its features beside the metadata.
    """
    made = {encoder.column for encoder in preparation.embed.encoders if preparation.embeds}
    if not spec.needs_embeddings() and not made & {*spec.columns(), score}:
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
    read, texts = beside(call, spec.subset, preparation, found, spec.captions)
    subset = call(curating.select_subset, spec.subset, found.pool, read)
    return laid_out(call, spec, subset, found, texts if spec.captions.trains else None)


def laid_out(call: Call, spec: Curation, subset: Any, found: Candidates, texts: Any = None) -> Curated:
    """A subset's samples as shards of their own, as a view into the pool's, or mixed with sets of one's own.

    `texts`: their captions by a policy; None: the pool's own.
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
    "embed": embedded,
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
