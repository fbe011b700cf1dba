"""The baselines of DataComp (Gadre et al. 2023, section 3.4 and appendix) and those of the `tiny` scale, one row each."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from datacomp_core.errors import SpecError
from datacomp_core.filters import (
    AllOf,
    AspectRatio,
    Characters,
    Everything,
    ImageClusters,
    ImagenetWords,
    ImageSize,
    Language,
    LanguageCld3,
    RandomFraction,
    Threshold,
    Tokens,
    TopFraction,
    Words,
)
from datacomp_core.recipes.base import RecipeRow
from datacomp_core.registry import RECIPES


def _score(name: str) -> str:
    if not re.fullmatch(r"b32|l14|tiny|clip_[a-z0-9_]+_similarity_score", name):
        raise ValueError("give b32, l14, tiny, or the column of a model of your own, such as clip_mine_similarity_score")
    return name


Score = Annotated[str, AfterValidator(_score)]
Model = Literal["lid.176.ftz", "lid.176.bin"]


def no_filter() -> Everything:
    return Everything()


def basic_filter(*, model: Model = "lid.176.ftz") -> AllOf:
    rules = (Words(at_least=3), Characters(at_least=6), ImageSize(shorter_side_at_least=200), AspectRatio(at_most=3.0))
    return AllOf(filters=(*rules, Language(language="en", model=model)))


def basic_tiny(*, model: Model = "lid.176.ftz") -> AllOf:
    rules = (Words(at_least=3), Characters(at_least=6), ImageSize(shorter_side_at_least=32), AspectRatio(at_most=3.0))
    return AllOf(filters=(*rules, Language(language="en", model=model)))


def english(*, model: Model = "lid.176.ftz") -> Language:
    return Language(language="en", model=model)


def clip_score(*, score: Score = "l14", fraction: float | None = None, threshold: float | None = None) -> TopFraction | Threshold:
    if fraction is not None and threshold is not None:
        raise SpecError("clip_score takes a fraction or a threshold, not both.")
    if threshold is not None:
        return Threshold(score=score, at_least=threshold)
    return TopFraction(score=score, fraction=0.3 if fraction is None else fraction)


def text_based(*, model: Model = "lid.176.ftz") -> AllOf:
    return AllOf(filters=(ImagenetWords(), Language(language="en", model=model)))


def image_based(
    *,
    model: Model = "lid.176.ftz",
    centroids: str = "small_centroids_l14",
    target: str = "imagenet1k_l14",
    features: str = "l14",
) -> AllOf:
    captions = (Tokens(tokens_at_least=2), Characters(at_least=6), Language(language="en", model=model))
    return AllOf(filters=(*captions, ImageClusters(centroids=centroids, target=target, features=features)))


def image_based_intersect_clip_score(
    *,
    score: Score = "l14",
    fraction: float | None = None,
    threshold: float | None = None,
    model: Model = "lid.176.ftz",
    centroids: str = "small_centroids_l14",
    target: str = "imagenet1k_l14",
    features: str = "l14",
) -> AllOf:
    images = image_based(model=model, centroids=centroids, target=target, features=features)
    return AllOf(filters=(*images.filters, clip_score(score=score, fraction=fraction, threshold=threshold)))


def laion2b() -> AllOf:
    return AllOf(filters=(Threshold(score="b32", at_least=0.28), LanguageCld3(cld3_language="en")))


def clip_score_tiny(*, fraction: float = 0.3) -> TopFraction:
    return TopFraction(score="tiny", fraction=fraction)


def clip_score_b32(*, fraction: float = 0.3) -> TopFraction:
    return TopFraction(score="b32", fraction=fraction)


def clip_score_l14(*, fraction: float = 0.3) -> TopFraction:
    return TopFraction(score="l14", fraction=fraction)


def basic_and_clip_tiny(*, fraction: float = 0.3, of: Literal["pool", "survivors"] = "pool") -> AllOf:
    return AllOf(filters=(*basic_tiny().filters, TopFraction(score="tiny", fraction=fraction, of=of)))


def random(*, share: float = 0.3, seed: int = 0) -> RandomFraction:
    return RandomFraction(share=share, seed=seed, of="pool")


def random_30(*, seed: int = 0) -> RandomFraction:
    return random(share=0.3, seed=seed)


PAPER = "Gadre et al. 2023, DataComp (arXiv:2304.14108)"
for _row in (
    RecipeRow("no_filter", no_filter, "Every pair of the pool.", f"{PAPER}, no filtering"),
    RecipeRow(
        "basic_filter",
        basic_filter,
        "English, more than 2 words and 5 characters, sides of 200 px, no banners.",
        f"{PAPER}, basic",
    ),
    RecipeRow(
        "basic_tiny",
        basic_tiny,
        "The basic filter for a pool of 64 px images: the shorter side has 32 px or more.",
        "ours, after basic_filter",
    ),
    RecipeRow("english", english, "English captions by fastText.", f"{PAPER}, Table 25"),
    RecipeRow(
        "clip_score", clip_score, "The best by CLIP score: a fraction of the pool, or a threshold.", f"{PAPER}, CLIP score"
    ),
    RecipeRow(
        "clip_score_b32",
        clip_score_b32,
        "The best 30 % of the pool by CLIP ViT-B/32.",
        f"{PAPER}, CLIP B/32 score (top 30 %)",
    ),
    RecipeRow(
        "clip_score_l14",
        clip_score_l14,
        "The best 30 % of the pool by CLIP ViT-L/14.",
        f"{PAPER}, CLIP L/14 score (top 30 %)",
    ),
    RecipeRow("clip_score_tiny", clip_score_tiny, "The best 30 % of the pool by our own small scorer.", "ours, after CLIP score"),
    RecipeRow("basic_and_clip_tiny", basic_and_clip_tiny, "What basic_tiny and clip_score_tiny both keep.", "ours"),
    RecipeRow("text_based", text_based, "English captions with a word that is a class of ImageNet-21k.", f"{PAPER}, text-based"),
    RecipeRow(
        "image_based",
        image_based,
        "English captions with an image in a cluster of ImageNet-1k.",
        f"{PAPER}, image-based",
    ),
    RecipeRow(
        "image_based_intersect_clip_score",
        image_based_intersect_clip_score,
        "image_based and the best by CLIP score: the paper's best filter.",
        f"{PAPER}, image-based and CLIP score (DataComp-1B)",
    ),
    RecipeRow("laion2b", laion2b, "English by CLD3 and a CLIP B/32 score of 0.28 or more, as LAION-2B.", f"{PAPER}, LAION-2B"),
    RecipeRow("random", random, "A random fraction of the pool.", f"{PAPER}, random subsets"),
    RecipeRow("random_30", random_30, "A random 30 % of the pool: what size alone does.", f"{PAPER}, random subsets"),
):
    RECIPES.add(_row.name, _row, __name__)
