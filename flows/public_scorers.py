"""Lists hub models that score a pool by default: a recipe that reads their score does not need an explicit model. A model is
pinned when an experiment is described, and the home folder remembers the pin. Its commit and the sha256 of its weights are part
of the experiment's spec, and so of the record of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from datacomp_core import clip_hub
from datacomp_core.embedding.spec import EmbedSpec, Encoder
from datacomp_core.errors import DatacompError


class Scorer(NamedTuple):
    """A prefix of features (`<prefix>_img`), and the model that computes them and the score."""

    prefix: str
    model: str


PUBLIC = {"clip_dfn_public_similarity_score": Scorer("dfn_public", "hf-hub:apple/DFN-public")}
"""By score column: models of scores that no metadata contains."""

RELEASED = {
    "clip_b32_similarity_score": Scorer("b32", "hf-hub:timm/vit_base_patch32_clip_224.openai"),
    "clip_l14_similarity_score": Scorer("l14", "hf-hub:timm/vit_large_patch14_clip_224.openai"),
}
"""By score column: the models of the scores in CommonPool's metadata (OpenAI's CLIP), for pools without them."""


def with_public_scorers(
    embed: EmbedSpec,
    columns: Iterable[str],
    features: Iterable[str] = (),
    empty: Callable[[frozenset[str]], frozenset[str]] = lambda columns: frozenset(),
) -> EmbedSpec:
    """Return `embed` with an encoder for each column or feature prefix that a filter reads and that nothing else computes.
    `empty` says which of CommonPool's columns have no value in the pool. The default encoder is dropped if the filter does not
    need it.
    """
    prefixes = frozenset(features)
    wanted = frozenset(columns) | {column for column, scorer in RELEASED.items() if scorer.prefix in prefixes}
    made = {encoder.column for encoder in embed.encoders}
    lacking = empty(frozenset(wanted & RELEASED.keys() - made))
    missing = sorted((wanted & PUBLIC.keys() - made) | lacking)
    if not missing:
        return embed
    kept = tuple(encoder for encoder in embed.encoders if embed != EmbedSpec() or encoder.column in wanted)
    return EmbedSpec.model_validate({**dict(embed), "encoders": (*kept, *(_encoder(column) for column in missing))})


def _encoder(column: str) -> Encoder:
    prefix, name = (PUBLIC | RELEASED)[column]
    try:
        model, sha256 = clip_hub.remembered(name)
    except DatacompError as problem:
        raise type(problem)(
            f"The pool has no {column}, and its default model {name} is not available. {problem} "
            f"Fix this, or give another model: --embed {prefix}=checkpoints/ADDRESS or {prefix}=MODEL@FILE."
        ) from problem
    return Encoder(column=column, prefix=prefix, model=model, sha256=sha256)
