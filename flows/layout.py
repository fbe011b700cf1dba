"""Describes the layout of the chosen samples: new shards, a view, or a mix with custom sets."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError


class Layout(Spec):
    """The layout of the chosen samples: shards, optionally with faces treated or custom sets mixed in, or a view without a
    copy."""

    form: Literal["shards", "view"] = Field(
        default="shards", description="view: training reads the pool's shards through an index; for a quick experiment."
    )
    faces: Literal["leave", "blur", "inject", "blur_and_inject"] = Field(
        default="leave",
        description="For pools downloaded without blur: treat faces by the metadata's boxes, in the image, the json or both.",
    )
    mix_in: tuple[str, ...] = Field(
        default=(),
        description="Addresses of your own shard sets (`shards/...`). The entry is then in the track byod.",
    )
    weights: tuple[float, ...] = Field(default=(), description="How often each sample of these sets is used, such as 2 or 0.3.")

    def mixed(self) -> list[str]:
        """Describe the mix by the readable names of the sets and their weights."""
        names = [address.rpartition("/")[2].partition("--")[0] for address in self.mix_in]
        return [f"{weight:g} x {name}" for name, weight in zip(names, self.weights, strict=True)]

    @model_validator(mode="after")
    def _agrees(self) -> Layout:
        if len(self.mix_in) != len(self.weights):
            raise SpecError(
                f"There are {len(self.weights)} weights for {len(self.mix_in)} shard sets to mix in: give one weight per set."
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights):
            raise SpecError("A mix weight is not a number of 0 or more: correct it.")
        if self.form == "view" and (self.mix_in or self.faces != "leave"):
            raise SpecError("A view copies nothing, so it cannot blur faces or mix in sets: choose the form shards.")
        return self
