"""What the chosen samples become: shards of their own, a view, or a mix with sets of one's own."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError


class Layout(Spec):
    """What the chosen samples become: shards, with faces treated or sets of one's own mixed in, or a view without a copy."""

    form: Literal["shards", "view"] = Field(
        default="shards", description="view: training reads the pool's shards through an index; for a quick experiment."
    )
    faces: Literal["leave", "blur", "inject", "blur_and_inject"] = Field(
        default="leave", description="For pools downloaded without blur: by the metadata's boxes, in the image, the json or both."
    )
    mix_in: tuple[str, ...] = Field(
        default=(),
        description="Addresses of shard sets (`shards/...`) of one's own. The entry's track is byod then.",
    )
    weights: tuple[float, ...] = Field(default=(), description="How often each sample of these is taken: 2, or 0.3.")

    def mixed(self) -> list[str]:
        """What is mixed in, by the readable names of the sets and their weights."""
        names = [address.rpartition("/")[2].partition("--")[0] for address in self.mix_in]
        return [f"{weight:g} x {name}" for name, weight in zip(names, self.weights, strict=True)]

    @model_validator(mode="after")
    def _agrees(self) -> Layout:
        if len(self.mix_in) != len(self.weights):
            raise SpecError(f"{len(self.weights)} weights for {len(self.mix_in)} shard sets to mix in: give one for each.")
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights):
            raise SpecError("The weights of what is mixed in are numbers of 0 and more.")
        if self.form == "view" and (self.mix_in or self.faces != "leave"):
            raise SpecError("A view copies nothing, so no face can be blurred and nothing mixed in: choose the form shards.")
        return self
