"""The contents page of scores to compute, one line each. A new one is a file beside this one and a line in `KINDS`.

Where a filter has a field `score`, the name of one of these may stand: `neg_clip_loss`, `norm_sim:p=2`.
"""

from __future__ import annotations

from pydantic import ValidationError

from datacomp_core.errors import SpecError, unknown
from datacomp_core.scores.base import Score
from datacomp_core.scores.dfn import Dfn
from datacomp_core.scores.metaclip import MetaClip
from datacomp_core.scores.neg_clip_loss import NegClipLoss
from datacomp_core.scores.norm_sim import NormSim
from datacomp_core.scores.perceptual_hash import PerceptualHash
from datacomp_core.scores.text_masked import TextMasked

KINDS: dict[str, type[Score]] = {
    model.kind: model
    for model in (
        NegClipLoss,  # how good a pair is among others
        NormSim,  # how near an image lies to a target set
        MetaClip,  # how rare what a caption is about
        Dfn,  # how like trusted pairs
        TextMasked,  # how well a picture fits when its words are covered
        PerceptualHash,  # what a picture looks like, in 64 bits
    )
}


def score_of(text: str) -> Score | None:
    """The score to compute of `kind` or `kind:parameter=value,...`; None for a column's name. SpecError if it is wrong."""
    kind, colon, given = text.partition(":")
    if kind not in KINDS:
        if colon:
            raise unknown("score", kind, KINDS)
        return None
    model = KINDS[kind]
    values: dict[str, str] = {}
    for item in filter(None, given.split(",")):
        name, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise SpecError(
                f"{item!r} in the score {text!r} is not parameter=value; {kind} takes {', '.join(model.model_fields)}."
            )
        if name not in model.model_fields:
            raise unknown(f"parameter of score {kind}", name, model.model_fields)
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), SpecError):
            raise cause from problem
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"Score {text!r}: {where}: {first['msg']} (given: {first['input']!r}).") from problem


def canonical(text: str) -> str:
    """A score's column: the text itself, or the one way to write a score to compute."""
    score = score_of(text)
    return text if score is None else score.column
