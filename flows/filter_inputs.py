"""Provides what a filter reads besides the metadata: CLIP scores, computed scores, image facts from a download, and other
captions."""

from __future__ import annotations

from datacomp_core.artifacts import Captioned, Captions, Checkpoint, Embeddings, Scores
from datacomp_core.caption_policy import CaptionPlan, CaptionPolicy
from datacomp_core.caption_sets import RAW, require_sources
from datacomp_core.embedding.captions import CaptionEmbedSpec
from datacomp_core.errors import SpecError
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.download_columns import COLUMNS as LEARNED
from datacomp_core.pool.download_columns import LearnedSpec
from datacomp_core.scores.base import Score
from datacomp_core.selection.select import Beside, SubsetSpec
from flows.candidate_pool import Candidates, candidates, is_own, own_source_spec
from flows.parameters import ExperimentSpec, Preparation
from flows.required_columns import of_pool, require_columns
from flows.task_calls import Call
from tasks import captions as captioning
from tasks import curate as curating
from tasks import pool as pooling
from tasks import train as training
from tasks.run_step import stored

OWN_CAPTIONS = CaptionPlan()


def scores(call: Call, spec: Preparation, found: Candidates) -> Embeddings:
    """Compute CLIP scores of the candidates with open_clip models, checkpoints of the store, or our small scorer."""
    stored_ones = tuple(stored(Checkpoint, address) for address in spec.scorers)
    own = stored_ones or ((scorer(call, spec),) if spec.embed.num_checkpoints else ())
    return call(curating.embed, spec.embed, found.pool, found.shards, own)


def scorer(call: Call, spec: Preparation) -> Checkpoint:
    """Return the scoring CLIP: a checkpoint of the store, or at `tiny` a small one trained on the trusted set."""
    if spec.scorers:
        return stored(Checkpoint, spec.scorers[0])
    if spec.scorer is None:
        has = "are computed by default" if spec.stored_pool else "are in its metadata"
        raise SpecError(
            f"{of_pool(spec)} needs a score, and no model is given. The scores b32 and l14 {has}; the score tiny exists at the "
            "scale tiny only. For any other score, give its model (`embed`): --embed NAME=checkpoints/ADDRESS or NAME=MODEL@FILE "
            "makes the column clip_NAME_similarity_score."
        )
    trusted = call(pooling.build_trusted, spec.trusted)
    return call(training.train, spec.scorer, (trusted,))


def captioned(
    call: Call, plan: CaptionPlan, spec: SubsetSpec, preparation: Preparation, found: Candidates, embeddings: Embeddings | None
) -> Captioned | None:
    """Return the pool's captions by a policy; None for its own. Sets are embedded if a score of the new pairs is read."""
    sets = tuple(stored(Captions, address) for address in plan.sets)
    require_sources(plan.policy.named(), sets)
    return _chosen(call, plan.policy, sets, spec, preparation, found, embeddings) if plan.edits else None


def _chosen(
    call: Call,
    policy: CaptionPolicy,
    sets: tuple[Captions, ...],
    spec: SubsetSpec,
    preparation: Preparation,
    found: Candidates,
    embeddings: Embeddings | None,
) -> Captioned:
    wanted = {*spec.columns(), policy.score}
    read = [one for one in preparation.embed.encoders if one.column in wanted or one.prefix in spec.features()]
    mine = tuple(read) if embeddings is not None else ()
    if mine and not policy.draws:
        embed = CaptionEmbedSpec.model_validate({**dict(preparation.embed), "encoders": mine})
        models = _scorers_of(call, preparation, embed)
        sets = tuple(call(captioning.embed_captions, embed, one, found.pool, embeddings, models) for one in sets)
    scored = (embeddings,) if embeddings is not None and not policy.draws else ()
    return call(captioning.choose_captions, policy, found.pool, sets, scored)


def named_captions(
    call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates, plan: CaptionPlan
) -> tuple[tuple[Captioned, ...], tuple[Scores, ...]]:
    """Return the captions of the sources that a filter names, and the scores of the pairs with them that it reads, in the order
    of `select_subset_by_captions`."""
    embeddings = _embeddings(call, spec, preparation, found, plan.policy.score)
    sets = tuple(stored(Captions, address) for address in plan.sets)
    require_sources(spec.captions(), sets)
    captions, scores = list[Captioned](), list[Scores]()
    for name in spec.captions():
        texts = None
        if name != RAW:
            policy = CaptionPolicy(kind="replace", sources=(name,))
            mine = tuple(one for one in sets if name in one.sources)
            texts = _chosen(call, policy, mine, spec, preparation, found, embeddings)
            captions.append(texts)
        scores += [_score(call, score, preparation, found, embeddings, texts) for score in spec.scores_of_captions(name)]
    return tuple(captions), tuple(scores)


def _score(
    call: Call, score: Score, preparation: Preparation, found: Candidates, embeddings: Embeddings | None, texts: Captioned | None
) -> Scores:
    """One computed score of the pairs with these captions; None: the pool's own."""
    features = embeddings if "features" in score.needs else None
    images = found.shards if "images" in score.needs or score.reads_index() else None
    model = scorer(call, preparation) if "model" in score.needs else None
    if texts is None:
        return call(curating.score, score, found.pool, features, images, model)
    return call(captioning.score_captioned, score, found.pool, features, images, model, texts)


def embedded(call: Call, spec: ExperimentSpec) -> Embeddings | Captions:
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


def _scorers_of(call: Call, preparation: Preparation, embed: CaptionEmbedSpec) -> tuple[Checkpoint, ...]:
    """The checkpoints of those encoders that name no model."""
    own = tuple(stored(Checkpoint, address) for address in preparation.scorers)
    own = own or ((scorer(call, preparation),) if preparation.embed.num_checkpoints else ())
    named = [encoder for encoder in preparation.embed.encoders if not encoder.model]
    return tuple(one for encoder, one in zip(named, own, strict=False) if encoder in embed.encoders)


def extra_inputs(
    call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates, plan: CaptionPlan = OWN_CAPTIONS
) -> tuple[Beside, Captioned | None]:
    """Return what a filter reads besides the metadata (embeddings, one column per computed score, captions), and these
    captions."""
    require_columns(spec, preparation, found.pool, plan)
    embeddings = _embeddings(call, spec, preparation, found, plan.policy.score)
    texts = captioned(call, plan, spec, preparation, found, embeddings)
    columns: list[Scores | Captioned] = []
    if wanted := download_columns_spec(spec.columns(), preparation):
        columns.append(call(pooling.read_download_columns, wanted, found.pool, found.shards))
    read = None if plan.policy.draws else texts
    columns += [_score(call, score, preparation, found, embeddings, read) for score in spec.scores()]
    columns += [texts] if texts is not None else []
    return ((*([embeddings] if embeddings is not None else []), *columns) if columns else embeddings), texts


def download_columns_spec(columns: frozenset[str], preparation: Preparation) -> LearnedSpec | None:
    """Return how to find the sizes and hashes among `columns` that a custom pool's metadata may lack; None if there are none.
    A download's ledger has all of them; adopted tars may not state them, so they are read from the images.
    """
    wanted = sorted(columns & set(LEARNED))
    if not wanted or not is_own(preparation):
        return None
    lying = own_source_spec(preparation.stored_pool) if preparation.stored_pool else preparation.pool
    return LearnedSpec(from_images=tuple(wanted) if isinstance(lying, AdoptedPoolSpec) else ())


def _embeddings(call: Call, spec: SubsetSpec, preparation: Preparation, found: Candidates, score: str = "") -> Embeddings | None:
    """Return the embeddings of the pool if the filter or a caption policy needs them (its `score`). A pool without a scorer
    has its features next to the metadata.
    """
    made = {encoder.column for encoder in preparation.embed.encoders if preparation.embeds}
    if not spec.needs_features() and not made & {*spec.columns(), score}:
        return None
    if preparation.embeds:
        return scores(call, preparation, found)
    if not preparation.stored_pool and isinstance(preparation.pool, HubPoolSpec) and preparation.pool.features == "leave":
        raise SpecError(
            f"This filter reads the features of {of_pool(preparation)}, which are 25 times the size of its metadata and "
            "were not fetched: make the pool with prepare-pool and features=fetch, and give its address."
        )
    return None
