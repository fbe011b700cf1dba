"""Imports and so registers every shipped filter. A new filter is a file next to this one and an import here. This package does
not depend on an engine, a score's formula or a recipe. Filters from other packages and files need no line here.
"""

from __future__ import annotations

from datacomp_core.filters.algebra import AllOf, AnyOf, NotOf
from datacomp_core.filters.aspect_ratio import AspectRatio
from datacomp_core.filters.balance_clusters import BalanceClusters
from datacomp_core.filters.balance_synsets import BalanceSynsets
from datacomp_core.filters.base import (
    AnyFilter,
    BatchFilter,
    FeatureFilter,
    Filter,
    GlobalFilter,
    GlobalView,
    LookupFilter,
    RankFilter,
    RowFilter,
    WholeFilter,
    register,
)
from datacomp_core.filters.captions_of import CaptionsOf
from datacomp_core.filters.characters import Characters
from datacomp_core.filters.concept_quota import ConceptQuota
from datacomp_core.filters.d2_prune import D2Prune
from datacomp_core.filters.density_prune import DensityPrune
from datacomp_core.filters.distinct import Distinct
from datacomp_core.filters.everything import Everything
from datacomp_core.filters.image_clusters import ImageClusters
from datacomp_core.filters.image_size import ImageSize
from datacomp_core.filters.imagenet_words import ImagenetWords
from datacomp_core.filters.language import Language
from datacomp_core.filters.language_cld3 import LanguageCld3
from datacomp_core.filters.listed import Listed
from datacomp_core.filters.mix import Mix
from datacomp_core.filters.norm_sim_d import NormSimD
from datacomp_core.filters.random_fraction import RandomFraction
from datacomp_core.filters.sample_to import SampleTo
from datacomp_core.filters.sem_dedup import SemDedup
from datacomp_core.filters.soft_cap import SoftCap
from datacomp_core.filters.submodular import Submodular
from datacomp_core.filters.threshold import Threshold
from datacomp_core.filters.tokens import Tokens
from datacomp_core.filters.top import TopCount, TopFraction
from datacomp_core.filters.words import Words

__all__ = [
    "AllOf",
    "AnyFilter",
    "AnyOf",
    "AspectRatio",
    "BalanceClusters",
    "BalanceSynsets",
    "BatchFilter",
    "CaptionsOf",
    "Characters",
    "ConceptQuota",
    "D2Prune",
    "DensityPrune",
    "Distinct",
    "Everything",
    "FeatureFilter",
    "Filter",
    "GlobalFilter",
    "GlobalView",
    "ImageClusters",
    "ImageSize",
    "ImagenetWords",
    "Language",
    "LanguageCld3",
    "Listed",
    "LookupFilter",
    "Mix",
    "NormSimD",
    "NotOf",
    "RandomFraction",
    "RankFilter",
    "RowFilter",
    "SampleTo",
    "SemDedup",
    "SoftCap",
    "Submodular",
    "Threshold",
    "Tokens",
    "TopCount",
    "TopFraction",
    "WholeFilter",
    "Words",
    "register",
]
