"""Lists published caption policies by name, each with its source: `generated_below_score:captions=ADDRESS,source=blip2`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datacomp_core.caption_policy import L14, CaptionPlan, plan_of
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.kind_registration import call_with_text
from datacomp_core.untrusted_documents import parse_yaml, read_yaml

FILES = (".yaml", ".yml", ".json")


class CaptionRecipe(NamedTuple):
    """`build` makes the plan from keyword parameters; `captions` is the address of the set, or several with `+` between."""

    build: Callable[..., CaptionPlan]
    description: str
    source: str


def _plan(captions: str, policy: object) -> CaptionPlan:
    return plan_of({"captions": captions.split("+"), "policy": policy}, "The recipe")


def generated_below_score(captions: str, source: str, threshold: float = 0.243, score: str = L14) -> CaptionPlan:
    return _plan(captions, {"replace_below": {"sources": [source], "threshold": threshold, "score": score}})


def recaption_mix(captions: str, source: str, recaption: float = 0.5) -> CaptionPlan:
    return _plan(captions, {"draw": {"raw": 1 - recaption, source: recaption}})


def translated(captions: str, source: str) -> CaptionPlan:
    return _plan(captions, {"first_of": [source, "raw"]})


def higher_score(captions: str, source: str, score: str = L14) -> CaptionPlan:
    return _plan(captions, {"best": {"score": score, "sources": ["raw", source]}})


CAPTION_RECIPES: dict[str, CaptionRecipe] = {
    "generated_below_score": CaptionRecipe(
        generated_below_score,
        "Raw captions of pairs whose CLIP score reaches the threshold; the rest get a generated caption, and pairs that stay "
        "below the threshold are dropped. 0.243 keeps 30 % of CommonPool by L/14.",
        "Nguyen et al. 2023, arXiv 2307.10350",
    ),
    "recaption_mix": CaptionRecipe(
        recaption_mix,
        "Original caption or recaption, drawn each time a sample is seen. You choose the share.",
        "Li et al. 2024, Recap-DataComp-1B; Lai et al. 2024, VeCLIP, also mix alt-text and rewritten text",
    ),
    "translated": CaptionRecipe(
        translated,
        "The translation where there is one. Filter by a score of the new pairs, as the paper does.",
        "Nguyen et al. 2024, arXiv 2405.16915",
    ),
    "higher_score": CaptionRecipe(higher_score, "The caption with the higher CLIP score.", "ours"),
}


def load_plan(given: str) -> CaptionPlan:
    """Read a plan from a YAML or JSON file, from YAML text, or from a recipe by name. SpecError, in one sentence, if it is
    wrong."""
    text = given.strip()
    try:
        if text.endswith(FILES) and "\n" not in text:
            return plan_of(read_yaml(Path(text)), f"The caption policy {text}")
        if "\n" in text or text.startswith("{") or ": " in text:
            return plan_of(parse_yaml(text, "The caption policy"), "The caption policy")
    except DataError as problem:
        raise SpecError(str(problem)) from problem
    name = text.partition(":")[0]
    if name not in CAPTION_RECIPES:
        raise unknown("caption policy", name, CAPTION_RECIPES)
    return call_with_text(CAPTION_RECIPES[name].build, "caption policy", name, text, "...")
