"""Defines recipes that were published after DataComp, one row each: builder, what it keeps, and its paper.

Parameters and defaults are the papers' where they give any; the filters and scores that they are made of have the formulas.
"""

from __future__ import annotations

from typing import Literal

from datacomp_core.filters import (
    AllOf,
    BalanceClusters,
    BalanceSynsets,
    D2Prune,
    DensityPrune,
    Distinct,
    Everything,
    Mix,
    NormSimD,
    SemDedup,
    SoftCap,
    Submodular,
    Threshold,
    TopFraction,
)
from datacomp_core.recipes.base import RecipeRow
from datacomp_core.registry import RECIPES


def neg_clip_loss(*, fraction: float = 0.3, features: str = "l14", temperature: float = 0.01, drawings: int = 10) -> TopFraction:
    return TopFraction(score=_neg_clip_loss(features, temperature, drawings), fraction=fraction, cut="at_fraction")


def norm_sim(
    *,
    fraction: float = 0.3,
    left: float = 0.667,
    p: Literal["inf", "2"] = "inf",
    target: str = "imagenet1k_l14",
    features: str = "l14",
    temperature: float = 0.01,
    drawings: int = 10,
) -> AllOf:
    near = f"norm_sim:features={features},target={target},p={p}"
    first = neg_clip_loss(fraction=fraction, features=features, temperature=temperature, drawings=drawings)
    return AllOf(filters=(first, TopFraction(score=near, fraction=left, of="survivors", cut="at_fraction")))


def vas(*, score: str = "l14", fraction: float = 0.45, left: float = 0.667, target: str = "imagenet1k_l14") -> AllOf:
    near = f"norm_sim:p=2,target={target}"
    best = TopFraction(score=score, fraction=fraction, cut="at_fraction")
    return AllOf(filters=(best, TopFraction(score=near, fraction=left, of="survivors", cut="at_fraction")))


def norm_sim_d(
    *,
    fraction: float = 0.45,
    left: float = 0.667,
    steps: int = 168,
    features: str = "l14",
    temperature: float = 0.01,
    drawings: int = 10,
) -> AllOf:
    first = neg_clip_loss(fraction=fraction, features=features, temperature=temperature, drawings=drawings)
    return AllOf(filters=(first, NormSimD(features=features, left=left, steps=steps)))


def sem_dedup(*, epsilon: float = 0.05, centroids: str = "small_centroids_l14", features: str = "l14") -> SemDedup:
    return SemDedup(epsilon=epsilon, centroids=centroids, features=features)


def exact_dedup(*, by: str = "sha256", prefer: str = "") -> Distinct:
    return Distinct(by=by, prefer=prefer)


def near_dedup(*, at_most_bits: int = 4, prefer: str = "") -> Distinct:
    return Distinct(by="perceptual_hash", at_most_bits=at_most_bits, prefer=prefer)


def metaclip(*, t: float = 20_000, entries: str = "imagenet21k", seed: int = 0) -> Threshold:
    return Threshold(score=f"metaclip:entries={entries},seed={seed}", at_least=1 / t)


def t_mars(*, fraction: float = 0.5) -> TopFraction:
    return TopFraction(score="text_masked", fraction=fraction, cut="at_fraction")


def dfn_tiny(*, fraction: float = 0.15) -> TopFraction:
    return TopFraction(score="tiny", fraction=fraction, cut="at_fraction")


def dfn_public(*, fraction: float = 0.15) -> TopFraction:
    return TopFraction(score="clip_dfn_public_similarity_score", fraction=fraction, cut="at_fraction")


def soft_cap(
    *, score: str = "l14", num_samples: int = 1_000_000, penalty: float = 0.15, batch: int = 100_000, seed: int = 0
) -> SoftCap:
    one = {score: 1.0}
    return SoftCap(
        filter=Everything(), weights=one, scale="standardised", num_samples=num_samples, penalty=penalty, batch=batch, seed=seed
    )


def mix(*, fraction: float = 0.2, b32: float = 0.5, l14: float = 0.5) -> Mix:
    return Mix(weights={"b32": b32, "l14": l14}, best=fraction)


def density_prune(
    *,
    dedup: float = 0.05,
    score: str = "l14",
    fraction: float = 0.5,
    left: float = 0.6,
    temperature: float = 0.1,
    centroids: str = "small_centroids_l14",
    features: str = "l14",
) -> AllOf:
    copies = SemDedup(epsilon=dedup, centroids=centroids, features=features)
    best = TopFraction(score=score, fraction=fraction, of="survivors", cut="at_fraction")
    return AllOf(filters=(copies, best, DensityPrune(centroids=centroids, features=features, left=left, temperature=temperature)))


def d2_prune(
    *,
    score: str = "l14",
    left: float = 0.3,
    neighbors: int = 1,
    gamma: float = 1.0,
    centroids: str = "small_centroids_l14",
    features: str = "l14",
) -> D2Prune:
    return D2Prune(score=score, left=left, neighbors=neighbors, gamma=gamma, centroids=centroids, features=features)


def submodular(
    *,
    score: str = "l14",
    left: float = 0.15,
    target: str = "imagenet1k_l14",
    features: str = "l14",
    units: int = 98_304,
    active: int = 32,
    seed: int = 0,
) -> Submodular:
    return Submodular(score=score, left=left, target=target, features=features, units=units, active=active, seed=seed)


def clip_score_flipped(*, name: str = "l14_flipped", fraction: float = 0.3) -> TopFraction:
    return TopFraction(score=f"clip_{name}_similarity_score", fraction=fraction, cut="at_fraction")


def clear_pictures(*, sharpness: float = 20.0, brightness: float = 0.32, information: float = 3.0) -> AllOf:
    limits = {"sharpness": sharpness, "brightness": brightness, "information": information}
    return AllOf(filters=tuple(Threshold(score=f"picture_quality:measure={name}", at_least=at) for name, at in limits.items()))


def text_sampling(
    *, num_draws: int = 0, alpha: float = 0.2, over: Literal["mean", "max"] = "mean", seed: int = 0
) -> BalanceSynsets:
    return BalanceSynsets(filter=Everything(), num_draws=num_draws, alpha=alpha, over=over, seed=seed)


def image_cluster_sampling(
    *,
    num_draws: int = 0,
    alpha: float = 0.2,
    centroids: str = "small_centroids_l14",
    features: str = "l14",
    seed: int = 0,
) -> BalanceClusters:
    return BalanceClusters(
        filter=Everything(), num_draws=num_draws, alpha=alpha, centroids=centroids, features=features, seed=seed
    )


def _neg_clip_loss(features: str, temperature: float, drawings: int) -> str:
    return f"neg_clip_loss:features={features},temperature={temperature!r},drawings={drawings}"


DATACOMP = "Gadre et al. 2023 (arXiv:2304.14108)"
DFN = "Fang et al. 2024 (arXiv:2309.17425)"
FLYT = "Shechter and Carmon 2025 (arXiv:2503.08805)"
METACLIP = "Xu et al. 2024 (arXiv:2309.16671)"
D2 = "Maharana et al. 2023 (arXiv:2310.07931)"
DBP = "Abbas et al. 2024 (arXiv:2401.04578)"
DEVIL = "Yu et al. 2023 (arXiv:2309.15954)"
SDM = "SDM (ICLR 2026)"
T_MARS = "Maini et al. 2024 (arXiv:2307.03132)"
VAS = "Wang et al. 2024 (arXiv:2402.02055)"
NCL = "Wang et al. 2024 (arXiv:2405.19547)"
for _each in (
    (
        "neg_clip_loss",
        neg_clip_loss,
        "The best 30 % by CLIP score minus the score that other pairs would have.",
        f"{NCL}, negCLIPLoss",
    ),
    ("norm_sim", norm_sim, "Of the best 30 % by negCLIPLoss, the two thirds nearest to ImageNet-1k.", f"{NCL}, NormSim"),
    (
        "vas",
        vas,
        "Of the best 45 % by CLIP score, the two thirds most aligned with ImageNet-1k.",
        VAS,
    ),
    (
        "norm_sim_d",
        norm_sim_d,
        "Of the best 45 % by negCLIPLoss, the two thirds most similar to each other.",
        f"{NCL}, NormSim-D",
    ),
    ("sem_dedup", sem_dedup, "One of each group of images that mean the same.", "Abbas et al. 2023 (arXiv:2303.09540)"),
    (
        "exact_dedup",
        exact_dedup,
        "One of each group of equal images; by=text: captions, by=url: urls.",
        f"{DATACOMP}, Table 9",
    ),
    ("near_dedup", near_dedup, "One of each group of images whose perceptual hashes nearly agree.", f"{DATACOMP}, Table 9"),
    (
        "metaclip",
        metaclip,
        "Captions balanced over the entries of a word list, t = 20,000 each.",
        METACLIP,
    ),
    (
        "t_mars",
        t_mars,
        "The better half by CLIP score with the words in the picture covered.",
        T_MARS,
    ),
    (
        "dfn_tiny",
        dfn_tiny,
        "The best 15 % by a CLIP trained on trusted pairs (the tiny scale's scorer).",
        DFN,
    ),
    (
        "dfn_public",
        dfn_public,
        "The best 15 % by the public data filtering network, apple/DFN-public (fraction=0.2: the best 20 %).",
        DFN,
    ),
    ("soft_cap", soft_cap, "Draws with repeats, by score under a soft cap.", f"{FLYT}, SCS"),
    (
        "mix",
        mix,
        "The best 20 % by a weighted sum of standardised scores.",
        f"{FLYT}, M-FLYT",
    ),
    (
        "density_prune",
        density_prune,
        "Without near copies, the better half by CLIP score, with quotas by how dense a cluster is.",
        f"{DBP}, Density-Based Pruning",
    ),
    ("d2_prune", d2_prune, "The best 30 % by a score that travels between neighbours.", f"{D2}, D2 pruning"),
    ("submodular", submodular, "15 % that cover ImageNet-1k's learned concepts, good pairs first.", SDM),
    (
        "clip_score_flipped",
        clip_score_flipped,
        "The best 30 % by the mean CLIP score of picture and mirrored picture.",
        DEVIL,
    ),
    ("clear_pictures", clear_pictures, "Pictures that are neither blurred nor dark nor empty.", "ours, after CleanVision"),
    (
        "text_sampling",
        text_sampling,
        "Draws with repeats that balance the classes that captions name.",
        f"{DATACOMP}, text-based sampling",
    ),
    (
        "image_cluster_sampling",
        image_cluster_sampling,
        "Draws with repeats that balance the clusters of images.",
        f"{DATACOMP}, image-based sampling",
    ),
):
    RECIPES.add(_each[0], RecipeRow(*_each), __name__)
