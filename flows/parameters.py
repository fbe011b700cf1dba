"""The parameters of the flows: what a person chooses, and the specs of every step that follow from it."""

from __future__ import annotations

from itertools import product
from typing import Literal

from pydantic import Field, field_validator

from datacomp_core.artifacts import Spec
from datacomp_core.embedding.encode import EmbedSpec
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.filters import Everything, WholeFilter
from datacomp_core.filters.select import SubsetSpec, load_recipe
from datacomp_core.leaderboard.entry import EntrySpec
from datacomp_core.pool.images import ImageSpec, images_of
from datacomp_core.pool.tiny import TinyEvalSpec, TinyPoolSpec, TrustedSpec
from datacomp_core.resharding.reshard import ReshardSpec, reshard_of
from datacomp_core.scales import SCALES
from datacomp_core.training.train import TrainSpec

SCORER = {"name": "custom", "train_num_samples": 30_720, "batch_size": 128, "warmup": 15}
"""The scorer is trained longer than any model of the board, on pairs of its own; the board counts its cost."""


class Preparation(Spec):
    """Everything that comes before a filter, shared by all experiments over one pool."""

    pool: TinyPoolSpec = Field(default=TinyPoolSpec(), description="The candidates.")
    images: ImageSpec = Field(default=images_of("tiny"), description="How their images are downloaded.")
    trusted: TrustedSpec = Field(default=TrustedSpec(), description="The trusted pairs that the scorer learns from.")
    scorer: TrainSpec = Field(description="How the scorer is trained.")
    embed: EmbedSpec = Field(default=EmbedSpec(), description="How pairs are scored.")


class Curation(Spec):
    """From a pool to a training set."""

    subset: SubsetSpec = Field(description="The filter.")
    reshard: ReshardSpec = Field(default=reshard_of("tiny"), description="How the chosen samples are laid out.")


class Scoring(Spec):
    """From a training set to a score."""

    train: TrainSpec
    evalsets: TinyEvalSpec
    evaluate: EvalSpec
    entry: EntrySpec


class SweepSpec(Spec):
    """Many filters, many seeds, one scale: every combination is one line of the leaderboard, common steps are done once."""

    scale: Literal["tiny"] = Field(default="tiny", description="Compute scale: pool, model, training recipe and test suite.")
    recipes: tuple[str, ...] = Field(
        default=("no_filter", "clip_score_tiny"),
        description="Filters by name (`datacomp filter --list`).",
    )
    seeds: tuple[int, ...] = Field(default=(0,), description="Training seeds: initial weights, data order, augmentation.")
    pool_seeds: tuple[int, ...] = Field(
        default=(0,), description="Seeds of the embedded pool: another draw of captions and noise."
    )

    @field_validator("recipes")
    @classmethod
    def _known(cls, recipes: tuple[str, ...]) -> tuple[str, ...]:
        for recipe in recipes:
            load_recipe(recipe)
        return recipes

    def experiments(self) -> list[ExperimentSpec]:
        """Every combination, recipes innermost: the baseline of a seed is finished before the next seed starts."""
        return [
            ExperimentSpec(scale=self.scale, recipe=recipe, seed=seed, pool_seed=pool_seed)
            for pool_seed, seed, recipe in product(self.pool_seeds, self.seeds, self.recipes)
        ]


class ExperimentSpec(Spec):
    """One filter, one training, one score: a line of the leaderboard."""

    scale: Literal["tiny"] = Field(default="tiny", description="Compute scale: pool, model, training recipe and test suite.")
    recipe: str = Field(default="clip_score_tiny", description="Filter by name (`datacomp filter --list`).")
    filter: WholeFilter = Field(
        default_factory=Everything,
        description="A filter of your own, named by `recipe`. Leave it where that is a known one.",
    )
    seed: int = Field(default=0, ge=0, description="Training seed: initial weights, data order, augmentation.")
    pool_seed: int = Field(default=0, ge=0, description="Seed of the embedded pool: another draw of captions and noise.")

    def label(self) -> str:
        return f"{self.scale}-{self.recipe}-seed{self.seed}"

    def preparation(self) -> Preparation:
        """The specs of everything before the filter."""
        recipe = SCALES["tiny"].model_copy(update=SCORER)
        return Preparation(
            pool=TinyPoolSpec(seed=self.pool_seed),
            trusted=TrustedSpec(seed=self.pool_seed),
            scorer=TrainSpec(recipe=recipe, seed=self.pool_seed),
        )

    def curation(self) -> Curation:
        """The specs of the filter and the reshard."""
        if self.filter != Everything():
            return Curation(subset=SubsetSpec(recipe=self.recipe, filter=self.filter))
        recipe = load_recipe(self.recipe)
        return Curation(subset=SubsetSpec(recipe=recipe.name, filter=recipe.filter))

    def scoring(self) -> Scoring:
        """The specs of training, evaluation and entry."""
        scale = SCALES[self.scale]
        return Scoring(
            train=TrainSpec(recipe=scale, seed=self.seed),
            evalsets=TinyEvalSpec(),
            evaluate=EvalSpec(suite=scale.suite),
            entry=EntrySpec(),
        )
