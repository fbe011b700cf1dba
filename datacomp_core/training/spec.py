"""Defines a training: a fixed recipe, a seed, and the few choices of a participant.

The number of optimizer steps is part of the recipe: it is computed here once, from the reference's own worker count, and
never from the machine.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.scales import SCALES, Scale, with_decoding


class TrainSpec(Spec):
    """A row of the scales (or a `custom` one, which the board does not rank) and a seed."""

    recipe: Scale = Field(description="The training recipe: a row of the scales, or your own named `custom`.")
    seed: int = Field(default=0, ge=0, description="Seeds initial weights, data order and augmentation.")
    data_weights: tuple[float, ...] = Field(
        default=(), description="Relative sampling weight of each shard set. Empty: all equal."
    )
    tolerated_corrupt: float = Field(
        default=0.0, ge=0, lt=1, description="Share of drawn samples that may be unreadable; a neighbour replaces them."
    )

    @model_validator(mode="after")
    def _is_a_fair_recipe(self) -> TrainSpec:
        row = SCALES.get(self.recipe.name)
        if row is not None and self.recipe != (allowed := with_decoding(row, self.recipe.decoding)):
            row = allowed if allowed.name == row.name else row
            changed = [name for name in Scale.model_fields if getattr(row, name) != getattr(self.recipe, name)]
            raise ValueError(
                f"The recipe of scale {row.name!r} is fixed, and {', '.join(changed)} differ: name your recipe 'custom', "
                "which the board does not rank."
            )
        if any(weight <= 0 or not math.isfinite(weight) for weight in self.data_weights):
            raise ValueError("A data weight is not above 0: omit a shard set instead of giving it weight 0.")
        return self

    def label(self) -> str:
        decoding = "" if self.recipe.decoding == "full" else f"-{self.recipe.decoding}"
        return f"{self.recipe.name}{decoding}-seed{self.seed}"

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps between two named checkpoints, rounded up as the reference's loader does with its own workers."""
        recipe = self.recipe
        batches = math.ceil(recipe.train_num_samples // recipe.num_checkpoints / recipe.batch_size)
        return math.ceil(batches / recipe.loader_workers) * recipe.loader_workers

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.recipe.num_checkpoints

    @property
    def samples_seen(self) -> int:
        return self.steps * self.recipe.batch_size
