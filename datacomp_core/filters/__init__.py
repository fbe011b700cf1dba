"""The contents page: every filter there is, one line each. A new one is a file beside this one and a line in `Leaf`."""

from __future__ import annotations

from typing import Annotated
from typing import Any as AnyValue

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from datacomp_core.filters import algebra, nesting, sample_to, soft_cap
from datacomp_core.filters.algebra import All, Any, Not
from datacomp_core.filters.aspect_ratio import AspectRatio
from datacomp_core.filters.base import Batch, FeatureBatch, Filter, Ranked, Rule, Survey
from datacomp_core.filters.chance import Random
from datacomp_core.filters.characters import Characters
from datacomp_core.filters.distinct import Distinct
from datacomp_core.filters.everything import Everything
from datacomp_core.filters.image_clusters import ImageClusters
from datacomp_core.filters.image_size import ImageSize
from datacomp_core.filters.imagenet_words import ImagenetWords
from datacomp_core.filters.language import Language
from datacomp_core.filters.language_cld3 import LanguageCld3
from datacomp_core.filters.mix import Mix
from datacomp_core.filters.norm_sim_d import NormSimD
from datacomp_core.filters.sample_to import SampleTo
from datacomp_core.filters.sem_dedup import SemDedup
from datacomp_core.filters.soft_cap import SoftCap
from datacomp_core.filters.threshold import Threshold
from datacomp_core.filters.tokens import Tokens
from datacomp_core.filters.top import TopCount, TopFraction
from datacomp_core.filters.words import Words

Leaf = (
    Everything  # all rows
    | Words  # captions of some length in words
    | Characters  # captions of some length in characters
    | Tokens  # captions of some length in fastText's tokens
    | ImageSize  # images of some size
    | AspectRatio  # images that are no banners
    | ImagenetWords  # captions that name a class of ImageNet-21k
    | Language  # captions in one language, by fastText
    | LanguageCld3  # captions in one language, by CLD3
    | Threshold  # scores of at least some value
    | TopFraction  # the best fraction by a score
    | TopCount  # the best so many by a score
    | Mix  # the best by a weighted sum of standardised scores
    | Random  # a random fraction
    | ImageClusters  # images near a target set
    | NormSimD  # what is most like the rest of the best, step by step
    | Distinct  # one of each group of copies, exact or near
    | SemDedup  # one of each group of images that mean the same
)


def _named(value: AnyValue) -> AnyValue:
    """A text in the place of a filter is the name of a recipe; a model may come from any union that knows it."""
    if isinstance(value, str):
        from datacomp_core.recipes.baselines import recipe

        return recipe(value).filter.model_dump()
    return value.model_dump() if isinstance(value, BaseModel) else value


AnyFilter = Annotated[Leaf | All | Any | Not, Field(discriminator="kind"), BeforeValidator(_named)]

WholeFilter = Annotated[Leaf | All | Any | Not | SampleTo | SoftCap, Field(discriminator="kind"), BeforeValidator(_named)]
"""What may stand outermost: any filter, or a sample of what one keeps."""

nesting.show_as_leaves(TypeAdapter(Annotated[Leaf, Field(discriminator="kind")]))
for _holder in (All, Any, Not, SampleTo, SoftCap):
    _holder.model_rebuild(_types_namespace={**vars(algebra), **vars(sample_to), **vars(soft_cap), "AnyFilter": AnyFilter})

__all__ = [
    "All",
    "Any",
    "AnyFilter",
    "AspectRatio",
    "Batch",
    "Characters",
    "Distinct",
    "Everything",
    "FeatureBatch",
    "Filter",
    "ImageClusters",
    "ImageSize",
    "ImagenetWords",
    "Language",
    "LanguageCld3",
    "Leaf",
    "Mix",
    "NormSimD",
    "Not",
    "Random",
    "Ranked",
    "Rule",
    "SampleTo",
    "SemDedup",
    "SoftCap",
    "Survey",
    "Threshold",
    "Tokens",
    "TopCount",
    "TopFraction",
    "WholeFilter",
    "Words",
]
