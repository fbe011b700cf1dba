"""Imports and so registers the scores to compute. A new one is a file next to this one and an import here. A filter's field
`score` accepts the name of one of these: `neg_clip_loss`, `norm_sim:p=2`.
"""

from __future__ import annotations

from datacomp_core.kind_registration import parse_kind
from datacomp_core.registry import SCORES
from datacomp_core.scores.base import AnyScore, Score, ScoreContext, register
from datacomp_core.scores.column_of import ColumnOf
from datacomp_core.scores.dfn import Dfn
from datacomp_core.scores.image_scores import ImageScore
from datacomp_core.scores.metaclip import MetaClip
from datacomp_core.scores.neg_clip_loss import NegClipLoss
from datacomp_core.scores.norm_sim import NormSim
from datacomp_core.scores.perceptual_hash import PerceptualHash
from datacomp_core.scores.picture_quality import PictureQuality
from datacomp_core.scores.quality_head import QualityHead
from datacomp_core.scores.text_masked import TextMasked

KINDS = SCORES


def score_of(text: str) -> Score | None:
    """The score to compute of `kind` or `kind:parameter=value,...`; None for a column's name. SpecError if it is wrong."""
    return parse_kind(SCORES, text)


def canonical(text: str) -> str:
    """The one way to write a score: a column's name as it is, or the full name of a score to compute."""
    score = score_of(text)
    return text if score is None else score.full_name


__all__ = [
    "KINDS",
    "AnyScore",
    "ColumnOf",
    "Dfn",
    "ImageScore",
    "MetaClip",
    "NegClipLoss",
    "NormSim",
    "PerceptualHash",
    "PictureQuality",
    "QualityHead",
    "Score",
    "ScoreContext",
    "TextMasked",
    "canonical",
    "register",
    "score_of",
]
