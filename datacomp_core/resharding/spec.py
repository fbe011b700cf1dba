"""Defines a reshard. Every field changes the output bytes, or whether there is an output."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from datacomp_core.artifacts import Spec
from datacomp_core.errors import unknown
from datacomp_core.scales import CUSTOM, SCALES


class ReshardSpec(Spec):
    """How the chosen samples are ordered, cut into shards, and how many may be missing."""

    samples_per_shard: int = Field(
        default=10_000, gt=0, description="Maximum number of samples per shard; all shards are equal to within one."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the global shuffle.")
    shuffle: Literal["global", "none"] = Field(
        default="global",
        description="global: every shard is a random draw from the whole subset; none: the order of the input shards.",
    )
    never_downloaded: Literal["count", "refuse"] = Field(
        default="count",
        description="How to treat a chosen sample whose image never arrived according to the download's ledger: as a counted "
        "loss (as in the reference), or within the limit of `tolerated_missing`.",
    )
    tolerated_missing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the subset that may be missing for other reasons (corrupt, shard_gone, unknown).",
    )

    def label(self) -> str:
        return f"seed{self.seed}" if self.shuffle == "global" else "unshuffled"


RESHARDS: dict[str, ReshardSpec] = {"tiny": ReshardSpec(samples_per_shard=250)}
"""Scales that are resharded differently from the reference; all other scales follow the reference."""


def reshard_of(scale: str) -> ReshardSpec:
    """The reshard of a scale. SpecError names the known ones."""
    if scale not in (*SCALES, CUSTOM):
        raise unknown("scale", scale, (*SCALES, CUSTOM))
    return RESHARDS.get(scale, ReshardSpec())
