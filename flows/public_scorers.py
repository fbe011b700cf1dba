"""Models of the hub that score columns of shipped recipes: whoever names such a recipe need not name its model.

A model is pinned when an experiment is described, and this home remembers to what: its commit and the sha256 of its weights stand
in the experiment's spec, and so in the record of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable

from datacomp_core import clip_hub
from datacomp_core.embedding.spec import EmbedSpec, Encoder

PUBLIC = {"clip_dfn_public_similarity_score": ("dfn_public", "hf-hub:apple/DFN-public")}
"""Score column -> prefix and model."""


def with_public_scorers(embed: EmbedSpec, columns: Iterable[str]) -> EmbedSpec:
    """`embed` with an encoder for each column of the table that a filter reads and `embed` does not make.

    The default encoder, which the filter does not ask for, gives way.
    """
    wanted = frozenset(columns)
    made = {encoder.column for encoder in embed.encoders}
    missing = sorted(column for column in wanted & PUBLIC.keys() if column not in made)
    if not missing:
        return embed
    kept = tuple(encoder for encoder in embed.encoders if embed != EmbedSpec() or encoder.column in wanted)
    return EmbedSpec.model_validate({**dict(embed), "encoders": (*kept, *(_encoder(column) for column in missing))})


def _encoder(column: str) -> Encoder:
    prefix, name = PUBLIC[column]
    model, sha256 = clip_hub.remembered(name)
    return Encoder(column=column, prefix=prefix, model=model, sha256=sha256)
