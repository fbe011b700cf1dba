"""Decides which caption a sample has: the policies, and the draw, a pure function of numbers that depend on seed, step and
position.

A policy names sources of captions; `raw` is the pool's own caption. A policy without a draw gives each row one caption or none;
one with a draw gives each row several, and one of them is drawn every time the sample is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.caption_sets import RAW
from datacomp_core.errors import SpecError, unknown
from datacomp_core.kind_registration import first_fault

PolicyKind = Literal["raw", "replace", "first_of", "best", "replace_below", "draw"]
KINDS: tuple[PolicyKind, ...] = ("raw", "replace", "first_of", "best", "replace_below", "draw")
L14 = "clip_l14_similarity_score"


class CaptionPolicy(Spec):
    """Which caption a sample has."""

    kind: PolicyKind = Field(
        default=RAW,
        description="raw: the pool's caption. replace: the source's caption. first_of: the caption of the first source that "
        "has one. best: the caption with the highest score. replace_below: raw where its score reaches the threshold, else "
        "the best other one that does. draw: one of several, drawn each time the sample is seen.",
    )
    sources: tuple[str, ...] = Field(default=(), description="Names of sources, first choice first; best: empty means all.")
    score: str = Field(default="", description="best, replace_below: the score for the pool's captions and the others.")
    threshold: float | None = Field(default=None, description="replace_below: the lowest score of a kept caption.")
    low: Literal["drop", "replace"] = Field(
        default="drop", description="replace_below: what happens to a row whose captions are all below the threshold."
    )
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="draw: relative probability of each source. 0: used only where no other source has a caption.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return _long_form(given)

    @model_validator(mode="after")
    def _is_whole(self) -> CaptionPolicy:
        self._require_fields()
        if len(set(self.sources)) < len(self.sources):
            raise SpecError(f"The policy {self.kind} names a source twice: {', '.join(self.sources)}.")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SpecError("The threshold of replace_below is not a number: correct it.")
        if any(not math.isfinite(weight) or weight < 0 for weight in self.weights.values()):
            raise SpecError("A weight of the draw is not a number of 0 or more: correct it.")
        if self.kind == "draw" and not any(self.weights.values()):
            raise SpecError("A draw needs a source with a weight above 0, such as draw: {raw: 0.5, blip2: 0.5}.")
        if self.kind == "replace" and self.sources == (RAW,):
            raise SpecError("The policy replaces the pool's captions with themselves: choose another source, or the policy raw.")
        return self

    def _require_fields(self) -> None:
        wanted: dict[str, tuple[str, ...]] = {
            "replace": ("sources",),
            "first_of": ("sources",),
            "best": ("score",),
            "replace_below": ("sources", "score", "threshold"),
            "draw": ("weights",),
        }
        also = {"best": ("sources",), "replace_below": ("low",)}.get(self.kind, ())
        given = {name for name in ("sources", "score", "threshold", "weights") if getattr(self, name) not in ((), "", None, {})}
        given |= {"low"} if self.low != "drop" else set()
        mine = wanted.get(self.kind, ())
        if missing := [name for name in mine if name not in given]:
            raise SpecError(f"The policy {self.kind} needs {' and '.join(missing)}.")
        if more := sorted(given - {*mine, *also}):
            raise SpecError(f"The policy {self.kind} has no {' and '.join(more)}.")
        if self.kind == "replace" and len(self.sources) > 1:
            raise SpecError("The policy replace needs exactly one source: use first_of for several.")

    @property
    def draws(self) -> bool:
        return self.kind == "draw"

    def named(self) -> tuple[str, ...]:
        """Return the named sources, including the pool's own captions if they can be chosen. Empty: all sources."""
        if self.kind == RAW:
            return (RAW,)
        if self.kind == "draw":
            return tuple(self.weights)
        own = (RAW,) if self.kind == "replace_below" and RAW not in self.sources else ()
        return (*own, *self.sources)

    def label(self) -> str:
        """A short readable name."""
        if self.kind == "draw":
            return "draw_" + "_".join(f"{name}{weight:g}" for name, weight in self.weights.items())
        pieces = [*self.sources, *([f"{self.threshold:g}"] if self.threshold is not None else [])]
        return "_".join([self.kind, *pieces])


def score_name(score: str) -> str:
    """A score's column: `l14` is short for clip_l14_similarity_score."""
    return f"clip_{score}_similarity_score" if score and "_" not in score else score


def _long_form(given: Any) -> Any:
    """`raw`, `{replace: a}`, `{first_of: [a, raw]}`, `{best: l14}`, `{replace_below: {...}}`, `{draw: {...}}` as fields."""
    if isinstance(given, str):
        given = {given: None} if given in KINDS else {"kind": given}
    if not isinstance(given, Mapping):
        return given
    short = [name for name in given if name in KINDS]
    if "kind" not in given and len(short) == 1 and len(given) == 1:
        given = _of_kind(short[0], given[short[0]])
    elif "kind" not in given and len(short) > 1:
        raise SpecError(f"The caption policy has {' and '.join(short)}: choose exactly one of {', '.join(KINDS)}.")
    elif "kind" not in given and given:
        known = set(CaptionPolicy.model_fields)
        odd = next((name for name in given if name not in known), "")
        if odd:
            raise unknown("caption policy", str(odd), KINDS)
    if isinstance(given.get("score"), str):
        given = {**given, "score": score_name(given["score"])}
    if given.get("kind") in ("best", "replace_below") and not given.get("score"):
        given = {**given, "score": L14}
    return given


def _of_kind(kind: str, value: Any) -> dict[str, Any]:
    if kind == "draw":
        if not isinstance(value, Mapping):
            raise SpecError("A draw has a weight for each source, such as draw: {raw: 0.5, blip2: 0.5}.")
        return {"kind": kind, "weights": value}
    if isinstance(value, Mapping):
        known = set(CaptionPolicy.model_fields) - {"kind"}
        if odd := [str(name) for name in value if name not in known]:
            raise unknown(f"field of the policy {kind}", odd[0], known)
        return {"kind": kind, **value}
    if value is None:
        return {"kind": kind}
    field = {"best": "score", "replace_below": "threshold"}.get(kind, "sources")
    return {"kind": kind, field: [value] if field == "sources" and isinstance(value, str) else value}


class CaptionPlan(Spec):
    """Caption sets of the store and the policy over them."""

    sets: tuple[str, ...] = Field(default=(), description="Addresses of caption sets (`captions/...`).")
    policy: CaptionPolicy = Field(default=CaptionPolicy(), description="Which caption a sample has.")
    use: Literal["filter_and_train", "filter"] = Field(
        default="filter_and_train",
        description="filter: only the filter reads these captions; training uses the pool's own, so the track is filtering.",
    )

    @model_validator(mode="after")
    def _has_sets(self) -> CaptionPlan:
        others = [name for name in self.policy.named() if name != RAW]
        if self.edits and not self.sets:
            names = f"names the source {others[0]!r}" if others else "has other captions than the pool's to choose from"
            raise SpecError(f"The policy {names}, and no caption set is given: write `captions: [captions/...]`.")
        return self

    @model_validator(mode="after")
    def _filters_without_a_draw(self) -> CaptionPlan:
        if self.use == "filter" and self.policy.draws:
            raise SpecError(
                "A filter cannot read a draw, which is made during training: choose another policy, or use it for training."
            )
        return self

    @property
    def edits(self) -> bool:
        """Return whether a filter or a training reads captions other than the pool's."""
        return self.policy.kind != RAW

    @property
    def trains(self) -> bool:
        """Whether training uses the edited captions."""
        return self.edits and self.use == "filter_and_train"


def plan_of(given: Any, where: str) -> CaptionPlan:
    """Parse a mapping `captions: [...]` and `policy: ...` (or the policy's short form) into a plan. SpecError if it is wrong."""
    if not isinstance(given, Mapping):
        raise SpecError(f"{where} is not a caption policy: write `captions: [ADDRESS, ...]` and `policy: ...`.")
    fields = dict(given)
    if {"captions", "sets"} <= fields.keys():
        raise SpecError(f"{where} has `captions` and `sets`, which are the same: keep one of them.")
    sets = fields.pop("captions", fields.pop("sets", None)) or ()
    sets = [sets] if isinstance(sets, str) else sets
    use = fields.pop("use", "filter_and_train")
    policy = fields.pop("policy", None)
    if policy is None:
        policy, fields = fields or RAW, {}
    if fields:
        raise unknown(f"field of {where[:1].lower()}{where[1:]}", str(next(iter(fields))), ("captions", "policy", "use"))
    try:
        return CaptionPlan.model_validate({"sets": sets, "policy": policy, "use": use})
    except ValidationError as problem:
        place, wrong, why = first_fault(problem)
        raise SpecError(f"{where}: {place}: {why} (given: {wrong!r}).") from problem


# The draw ------------------------------------------------------------------------------------------------------------


def draw_caption(
    weights: Mapping[str, float], there: Mapping[str, Sequence[str]], numbers: Sequence[float]
) -> tuple[str, str] | None:
    """Return the source and the caption that two numbers in [0, 1) choose from a sample's captions; None if it has none. The
    first number chooses a source in proportion to the weights of the sources that have a caption; a source of weight 0 is used,
    in order, only if there is no other. The second chooses among the source's captions. (open_clip draws json text keys in the
    same way.)
    """
    having = [(name, weight) for name, weight in weights.items() if there.get(name)]
    likely = [(name, weight) for name, weight in having if weight > 0]
    if not likely:
        return (having[0][0], _one_of(there[having[0][0]], numbers[1])) if having else None
    left = numbers[0] * sum(weight for _, weight in likely)
    chosen = likely[-1][0]
    for name, weight in likely:
        if left < weight:
            chosen = name
            break
        left -= weight
    return chosen, _one_of(there[chosen], numbers[1])


def _one_of(captions: Sequence[str], number: float) -> str:
    return captions[min(int(number * len(captions)), len(captions) - 1)]
